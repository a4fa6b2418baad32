"""Name the layer at which a run that broke down went wrong, and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from spiketune.snn import Neuron, SpikingNetwork, evaluating
from spiketune.snn.neurons import Temporal


def blame(
    snn: SpikingNetwork, images: Tensor, steps: int, precision: AbstractContextManager[object]
) -> str:
    """Return a clause that names the layer where numbers first stop being finite.

    It looks, in the order in which the network computes, for a weight that is not finite, then for
    a layer that sends such values into its neurons when it sees the images again, then for a
    gradient: there the last such layer is named, because a gradient comes from behind and spoils
    all before it. Where all is finite the layer with the largest gradient is named.

    Args:
        snn: the network, the gradients of the update still in it.
        images: ``[B, C, H, W]``, those that it broke down on.
        steps: ``T``.
        precision: context in which the network runs.

    Example:
        >>> from contextlib import nullcontext
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=2, in_chans=1, image_size=32)
        >>> with torch.no_grad():
        ...     _ = snn.net.get_parameter("conv1.0.weight").fill_(float("nan"))
        >>> blame(snn, torch.zeros(1, 1, 32, 32), 2, nullcontext())
        'the weights of layer conv1.0 are not finite'
    """
    found = list(layers(snn))
    for name, parameters in found:
        if not all(_finite(parameter) for parameter in parameters):
            return f"the weights of layer {name} are not finite"
    culprit = _first_value(snn, images, steps, precision)
    if culprit is not None:
        return f"the values that {culprit} computes are not finite"
    for name, parameters in reversed(found):
        if not all(p.grad is None or _finite(p.grad) for p in parameters):
            return f"the gradient stops being finite at layer {name}"
    norms = {name: _norm(parameters) for name, parameters in found}
    largest = max(norms, key=lambda name: norms[name])
    return f"the largest gradient, of norm {norms[largest]:.3g}, is that of layer {largest}"


def layers(snn: SpikingNetwork) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Yield module path and parameters of each layer, in the order in which they are computed."""
    owned: dict[str, list[nn.Parameter]] = {}
    for node in snn.net.graph.nodes:
        for owner, parameter in _parameters(snn, node):
            of_layer = owned.setdefault(owner, [])
            if all(parameter is not known for known in of_layer):
                of_layer.append(parameter)
    yield from owned.items()


def _parameters(snn: SpikingNetwork, node: Node) -> Iterator[tuple[str, nn.Parameter]]:
    if node.op == "call_module":
        for parameter in snn.net.get_submodule(str(node.target)).parameters():
            yield str(node.target), parameter
    # A weight is fetched long before it is used: it belongs where it is used.
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            value: Any = snn.net
            for part in str(source.target).split("."):
                value = getattr(value, part)
            if isinstance(value, nn.Parameter):
                yield str(source.target).rpartition(".")[0] or str(source.target), value


def _first_value(
    snn: SpikingNetwork, images: Tensor, steps: int, precision: AbstractContextManager[object]
) -> str | None:
    """Return the first layer whose values are not finite; None if all are."""
    names = {id(snn.net.get_submodule(str(n.target))): n for n in _units(snn)}
    found: list[str] = []

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not _finite(args[0]):
            found.append(_source(snn, names[id(module)]))

    hooks = [
        snn.net.get_submodule(str(node.target)).register_forward_pre_hook(see)
        for node in _units(snn)
    ]
    try:
        with torch.no_grad(), evaluating(snn), precision:
            answers = list(snn.outputs(images, steps))
    finally:
        for hook in hooks:
            hook.remove()
    if not found and not all(_finite(part) for part in answers):
        (output,) = snn.net.graph.find_nodes(op="output")
        found.append(_source(snn, output))
    return found[0] if found else None


def _units(snn: SpikingNetwork) -> Iterator[Node]:
    for node in snn.net.graph.find_nodes(op="call_module"):
        if isinstance(snn.net.get_submodule(node.target), Temporal | Neuron):
            yield node


def _source(snn: SpikingNetwork, node: Node) -> str:
    """Return the layer with weights that a node's first input comes from."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        for owner, _ in _parameters(snn, node):
            return f"layer {owner}"
    return f"{node.name}"


def _finite(value: object) -> bool:
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _norm(parameters: list[nn.Parameter]) -> float:
    squares = [float(p.grad.double().square().sum()) for p in parameters if p.grad is not None]
    return math.sqrt(sum(squares))


def advice(rate: float, clip_grad: float | None, autocast: bool) -> str:
    """Return what to try, most promising first.

    Example:
        >>> advice(0.1, 1.0, False)
        'lower it, for example Training(learning_rate=0.01) (--training.learning_rate on the ...
    """
    tries = [
        f"lower it, for example Training(learning_rate={rate / 10:.1g}) "
        "(--training.learning_rate on the command line)"
    ]
    if clip_grad is None:
        tries.append("bound the gradient with Training(clip_grad=1.0)")
    if autocast:
        tries.append('compute with precision="float32"')
    tries.append("give the rule a wider surrogate or fewer steps")
    return ", ".join(tries[:-1]) + f", or {tries[-1]}"
