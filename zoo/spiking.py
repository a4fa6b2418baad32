"""Untrained spiking networks for direct training: the spiking twin of a network.

Every activation becomes a neuron of threshold 1, and BatchNorm stays where it was, on the input
currents, its statistics shared by all steps (Ledinauskas et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from spiketune.snn import Neuron, Norm, Report, Row, SharedBN, SpiketuneError, SpikingNetwork, read
from spiketune.snn.cost import operation_rows
from spiketune.snn.dependencies import SIGNALS, Depends, dependencies
from spiketune.snn.norms import BATCH_NORMS
from spiketune.snn.ops import aten
from spiketune.snn.placing import place_neurons, replace_by_module
from spiketune.snn.program import fetch
from spiketune.snn.reading import BATCH_NORM, has_statistics
from spiketune.snn.rules import refusals, refuse, refuse_mixing

from .ann import load_ann
from .errors import ModelError
from .neurons import LeakyNeuron, NeuronKind, PlainNeuron
from .products import keep_products
from .stems import small_stem


def spiking(
    name: str,
    num_classes: int,
    steps: int,
    *,
    in_chans: int = 3,
    image_size: int | None = None,
    stem_stride: int | None = None,
    leak: float = 1.0,
    neuron: NeuronKind | None = None,
    norm: Norm | None = None,
) -> SpikingNetwork:
    """Return an untrained spiking network, ready for ``tune``.

    Args:
        name: a network of convolutions, BatchNorm and ReLU, from timm, torchvision or bundled.
        num_classes: outputs.
        steps: step count it will be trained at.
        in_chans: channels of the images.
        image_size: height and width; the network's own by default.
        stem_stride: of a ResNet, stride of a 3x3 stem without max-pool, for small images; its own
            stem by default.
        leak: ``λ`` of the neurons in (0, 1]; 1 integrates without leak.
        neuron: kind of neuron, such as ``ParametricNeuron()``, in place of a leak.
        norm: kind of BatchNorm on the input currents, ``TDBN()`` or ``TEBN()``; by default its
            statistics are shared by all steps and nothing else changes.

    Returns:
        The network in training mode, weights as timm initialises them.

    Raises:
        ModelError: on an unknown name, or a stem for a network that is no timm ResNet.
        SpiketuneError: on a leak and a kind of neuron at once.
        ConversionError: if the network uses an operation that cannot run on spikes.

    Example:
        >>> snn = spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> list(snn(torch.rand(2, 1, 32, 32)).shape)
        [2, 10]
    """
    ann, shape = untrained(name, num_classes, in_chans, image_size, stem_stride)
    return twin(ann, steps, shape, leak=leak, neuron=neuron, norm=norm, label=name)


def untrained(
    name: str, num_classes: int, in_chans: int, image_size: int | None, stem_stride: int | None
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network to make spiking, and ``(C, H, W)`` of its images; see ``spiking``.

    Example:
        >>> untrained("digits_resnet", 10, 1, image_size=None, stem_stride=None)[1]
        (1, 8, 8)
    """
    if num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, not {num_classes}; count the labels")
    ann: Any = load_ann(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)
    sides = (image_size, image_size) if image_size else ann.pretrained_cfg["input_size"][1:]
    return ann if stem_stride is None else small_stem(ann, stem_stride), (in_chans, *sides)


def twin(
    ann: nn.Module,
    steps: int,
    input_shape: tuple[int, ...],
    *,
    leak: float = 1.0,
    neuron: NeuronKind | None = None,
    norm: Norm | None = None,
    label: str = "",
) -> SpikingNetwork:
    """Return the spiking twin of any ReLU network; its weights are copied, nothing is balanced.

    Maxima and products of spikes are taken in each step; see ``spiking`` for the arguments. The
    twin has the network's type and device.

    Example:
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> twin(ann, 4, (1, 2, 2)).report.neurons
        1
    """
    kind, like = _kind(leak, neuron), next(ann.parameters(), torch.empty(()))

    def make(floor: float | None, ceiling: float | None) -> Neuron | None:
        return kind.make(steps=steps, ceiling=ceiling).to(like) if floor == 0.0 else None

    net = read(ann, like.new_zeros(1, *input_shape))
    rows = _keep_batch_norms(net, norm or SharedBN(), steps)
    rows += place_neurons(net, make)
    rows += _keep_max_pools(net)
    rows += keep_products(net)
    net.graph.eliminate_dead_code()
    net = GraphModule(net, net.graph)
    rows += refusals(net)
    refuse(rows, remedy="take one with ReLUs: they become the neurons that train from scratch")
    about: dict[str, str | int | float] = {"method": f"direct {label}".strip(), "spikes": "binary"}
    snn = SpikingNetwork(net, steps=steps, input_shape=input_shape, about=about)
    with torch.no_grad():
        images = torch.rand(2, *input_shape, generator=torch.Generator())
        refuse_mixing(snn.eval(), images.to(like))
    snn.report = Report((*rows, *operation_rows(snn)))
    return snn.train()


def _kind(leak: float, neuron: NeuronKind | None) -> NeuronKind:
    if neuron is None:
        return PlainNeuron() if leak == 1.0 else LeakyNeuron(leak=leak)
    if not isinstance(neuron, NeuronKind):
        raise ModelError(f"neuron={neuron!r} is no kind of neuron; give one such as LeakyNeuron()")
    if leak != 1.0:
        raise SpiketuneError(
            f"leak={leak} and {neuron} are given at once; leave leak out, or say LeakyNeuron(leak=)"
        )
    return neuron


def _keep_max_pools(net: GraphModule) -> list[Row]:
    """Pool the spikes of each step: the maximum of spikes is a spike, and is trained as such."""
    rows = []
    depends = dependencies(net.graph, net)
    for node in net.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        if depends[node] == Depends.TIME:
            replace_by_module(net, node, "max_pool", nn.MaxPool2d(*node.args[1:]))
            rows.append(Row(node.meta["path"], "max_pool2d", "pooled", "of each step's spikes"))
    return rows


def _keep_batch_norms(net: GraphModule, kind: Norm, steps: int) -> list[Row]:
    """Put modules, which can be trained, in the place of the calls in evaluation mode."""
    rows = []
    depends = dependencies(net.graph, net)
    norms = net.graph.find_nodes(op="call_function", target=BATCH_NORM)
    joining = {node for node in norms if _joins_a_sum(node, depends)}
    for node in norms:
        if not has_statistics(node) or len(node.meta["shape"]) not in BATCH_NORMS:
            continue  # refused by name
        path, shape = node.meta["path"], node.meta["shape"]
        weight, bias, mean, var = node.args[1:5]
        norm = BATCH_NORMS[len(shape)](
            shape[1], eps=node.args[7], momentum=node.args[6], affine=weight is not None
        )
        held = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
        tensors = {key: fetch(net, arg) for key, arg in held.items() if arg is not None}
        norm.to(tensors["running_mean"]).load_state_dict(tensors, strict=False)
        made = kind.make(norm, steps=steps, before_sum=node in joining)
        replace_by_module(net, node, "norm", made)
        rows.append(Row(path, "batch_norm", "linear", f"on the input currents, trained, {kind}"))
    return rows


def _joins_a_sum(node: Node, depends: dict[Node, Depends]) -> bool:
    """Whether a value is added to another one, as at the end of a residual block."""
    sums = [user for user in node.users if user.target is aten.add.Tensor]
    return any(len({n for n in user.all_input_nodes if depends[n] in SIGNALS}) > 1 for user in sums)
