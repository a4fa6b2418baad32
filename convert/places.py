"""Where a neuron stands, and along which dimension its channels lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from spiketune.snn import ConversionError, Neuron, SpikingNetwork
from spiketune.snn.ops import CONVOLUTIONS, MATRIX_PRODUCTS, PASSING, WEIGHTED, aten

from .method import Granularity


@dataclass(frozen=True)
class Place:
    """A neuron's place in the network.

    Attributes:
        node: the call of the neuron.
        neuron: a draft, whose activation is known and whose threshold is not balanced yet.
        axis: dimension of the channels in ``[B, ...]``; None for one threshold in all.

    Example:
        >>> from torch.fx import Graph
        >>> import torch
        >>> from spiketune.snn import IF
        >>> place = Place(Graph().placeholder("x"), IF(torch.ones(())), 1)
        >>> place.rows(torch.rand(5, 3, 4, 4)).shape
        torch.Size([3, 80])
    """

    node: Node
    neuron: Neuron
    axis: int | None

    def rows(self, values: Tensor) -> Tensor:
        """Return ``[B, ...]`` as ``[C, N]``, one row a channel."""
        if self.axis is None:
            return values.flatten().unsqueeze(0)
        return values.movedim(self.axis, 0).flatten(1)

    def shaped(self, channels: Tensor) -> Tensor:
        """Return ``[C]`` so that it broadcasts to one sample."""
        if self.axis is None:
            return channels.view(())
        dims = len(self.node.meta["shape"])
        shape = [1] * (dims - 1)
        shape[self.axis - 1 if self.axis > 0 else self.axis] = -1
        return channels.view(shape)

    def threshold(self, channels: Tensor) -> Tensor:
        """Return balanced values ``[C]`` as thresholds that broadcast to one sample.

        Channels that were never active take the largest of the layer; between two bounds no
        threshold is above the larger.

        Raises:
            ConversionError: if no channel was active.
        """
        silent = channels <= 0
        if bool(silent.all()):
            raise ConversionError(
                self.node.meta.get("path") or str(self.node.target),
                "no activation above zero on any calibration image",
                "give more images, or check the network's weights",
            )
        filled = self.shaped(torch.where(silent, channels.max(), channels))
        floor, ceiling = self.neuron.floor, self.neuron.ceiling
        if floor is None or ceiling is None:
            return filled
        top = torch.as_tensor(ceiling, dtype=filled.dtype, device=filled.device)
        return filled.minimum(top.clamp_min(-floor))


def places(snn: SpikingNetwork, per: Granularity) -> dict[str, Place]:
    """Return the place of every neuron by the name of its node.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(9, 4), st.Ternary())
        >>> [place.axis for place in places(snn, "channel").values()]
        [1]
    """
    return {
        node.name: Place(node, neuron, _axis(node) if per == "channel" else None)
        for node, neuron in snn.neuron_nodes()
    }


def _axis(node: Node) -> int | None:
    """Return where the weights behind a neuron have their inputs; dimension 1 where none are.

    A threshold can be folded into a weight along its inputs only; into a matrix product not at
    all, unless it is one number. Where the images do not lead, no dimension is known to hold
    channels.
    """
    if node.meta.get("batch") != "lead":
        return None
    seen, queue = {node}, list(node.users)
    while queue:
        user = queue.pop(0)
        if user.target in CONVOLUTIONS or user.target is aten.conv_transpose2d.input:
            return 1
        if user.target in WEIGHTED:
            same = user.args[1].meta.get("shape") if isinstance(user.args[1], Node) else None
            fits = same is not None and node.meta["shape"][-1] == same[-1]
            return -1 if fits else 1
        if user.target in MATRIX_PRODUCTS:
            return None
        if user not in seen and user.target in PASSING:
            seen.add(user)
            queue.extend(user.users)
    return 1 if len(node.meta["shape"]) != 3 else -1
