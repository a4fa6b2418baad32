"""Untrained spiking networks for direct training: the spiking twin of a network.

Every activation becomes a neuron of threshold 1, and BatchNorm stays where it was, on the input
currents, its statistics shared by all steps (Ledinauskas et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from spiketune.snn import IF, LIF, Neuron, Report, Row, SpikingNetwork, read
from spiketune.snn.cost import operation_rows
from spiketune.snn.dependencies import Depends, dependencies
from spiketune.snn.ops import aten
from spiketune.snn.placing import place_neurons, replace_by_module
from spiketune.snn.program import fetch
from spiketune.snn.reading import BATCH_NORM, has_statistics
from spiketune.snn.rules import refusals, refuse, refuse_mixing

from .ann import load_ann
from .errors import ModelError

# By the dimensions of what they normalise.
NORMS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
}


def spiking(
    name: str,
    num_classes: int,
    steps: int,
    *,
    in_chans: int = 3,
    image_size: int | None = None,
    leak: float = 1.0,
) -> SpikingNetwork:
    """Return an untrained spiking network, ready for ``tune``.

    Args:
        name: a network of convolutions, BatchNorm and ReLU, from timm, torchvision or bundled.
        num_classes: outputs.
        steps: step count it will be trained at.
        in_chans: channels of the images.
        image_size: height and width; the network's own by default.
        leak: ``λ`` of the neurons in (0, 1]; 1 integrates without leak.

    Returns:
        The network in training mode, weights as timm initialises them.

    Raises:
        ModelError: on an unknown name.
        ConversionError: if the network uses an operation that cannot run on spikes.

    Example:
        >>> snn = spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> list(snn(torch.rand(2, 1, 32, 32)).shape)
        [2, 10]
    """
    if num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, not {num_classes}; count the labels")
    ann: Any = load_ann(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)
    sides = (image_size, image_size) if image_size else ann.pretrained_cfg["input_size"][1:]
    return twin(ann, steps, (in_chans, *sides), leak=leak, label=name)


def twin(
    ann: nn.Module, steps: int, input_shape: tuple[int, ...], *, leak: float = 1.0, label: str = ""
) -> SpikingNetwork:
    """Return the spiking twin of any ReLU network; its weights are copied, nothing is balanced.

    Example:
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> twin(ann, 4, (1, 2, 2)).report.neurons
        1
    """

    def make(floor: float | None, ceiling: float | None) -> Neuron | None:
        one = torch.ones(())
        if floor != 0.0:
            return None
        if leak == 1.0:
            return IF(one, ceiling=ceiling)
        return LIF(one, leak=leak, ceiling=ceiling)

    net = read(ann, torch.zeros(1, *input_shape))
    rows = _keep_batch_norms(net)
    rows += place_neurons(net, make)
    rows += _keep_max_pools(net)
    net.graph.eliminate_dead_code()
    net = GraphModule(net, net.graph)
    rows += refusals(net)
    refuse(rows)
    about: dict[str, str | int | float] = {"method": f"direct {label}".strip(), "spikes": "binary"}
    snn = SpikingNetwork(net, steps=steps, input_shape=input_shape, about=about)
    with torch.no_grad():
        refuse_mixing(snn.eval(), torch.rand(2, *input_shape, generator=torch.Generator()))
    snn.report = Report((*rows, *operation_rows(snn)))
    return snn.train()


def _keep_max_pools(net: GraphModule) -> list[Row]:
    """Pool the spikes of each step: the maximum of spikes is a spike, and is trained as such."""
    rows = []
    depends = dependencies(net.graph, net)
    for node in net.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        if depends[node] == Depends.TIME:
            replace_by_module(net, node, "max_pool", nn.MaxPool2d(*node.args[1:]))
            rows.append(Row(node.meta["path"], "max_pool2d", "pooled", "of each step's spikes"))
    return rows


def _keep_batch_norms(net: GraphModule) -> list[Row]:
    """Put modules, which can be trained, in the place of the calls in evaluation mode."""
    rows = []
    for node in net.graph.find_nodes(op="call_function", target=BATCH_NORM):
        if not has_statistics(node) or len(node.meta["shape"]) not in NORMS:
            continue  # refused by name
        path, shape = node.meta["path"], node.meta["shape"]
        weight, bias, mean, var = node.args[1:5]
        norm = NORMS[len(shape)](
            shape[1], eps=node.args[7], momentum=node.args[6], affine=weight is not None
        )
        held = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
        norm.load_state_dict(
            {key: fetch(net, arg) for key, arg in held.items() if arg is not None}, strict=False
        )
        replace_by_module(net, node, "norm", norm)
        rows.append(Row(path, "batch_norm", "linear", "on the input currents, trained"))
    return rows
