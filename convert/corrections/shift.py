"""A constant in front of a neuron, which corrections set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spiketune.snn import SpikingNetwork
from spiketune.snn.chunk import only_input
from spiketune.snn.ops import aten
from spiketune.snn.placing import free_name

if TYPE_CHECKING:
    from ..places import Place


def put_shifts(snn: SpikingNetwork, places: Mapping[str, Place]) -> dict[str, Tensor]:
    """Add a constant, zero for now, to the current of every neuron.

    Returns:
        The constants by the names of the neurons' nodes, to be changed in place; each broadcasts
        to one sample.

    Example:
        >>> import spiketune as st
        >>> from spiketune.convert.places import places
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(9, 4), st.Ternary())
        >>> [list(shift.shape) for shift in put_shifts(snn, places(snn, "channel")).values()]
        [[3]]
    """
    shifts: dict[str, Tensor] = {}
    graph = snn.net.graph
    for name, place in places.items():
        source = only_input(place.node)
        target = free_name(snn.net, f"{place.node.target}_shift")
        owner, _, leaf = target.rpartition(".")
        shape = place.neuron.threshold.shape
        like = place.neuron.threshold
        shift = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))
        snn.net.get_submodule(owner).register_parameter(leaf, shift)
        with graph.inserting_before(place.node):
            constant = graph.get_attr(target)
            added = graph.call_function(aten.add.Tensor, (source, constant))
        added.meta = {**place.node.meta}
        place.node.replace_input_with(source, added)
        shifts[name] = shift.data
    snn.net.recompile()
    snn.refresh()
    return shifts
