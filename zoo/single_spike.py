"""Untrained networks in which every neuron fires at most once, at an exact time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule

from spiketune.snn import (
    PSP,
    EarliestPool2d,
    Latency,
    LinearPSP,
    Membrane,
    Race,
    Report,
    Row,
    SpikingNetwork,
    TimedConv2d,
    TimedLinear,
)
from spiketune.snn.single_spike.timed import Scales

from .errors import ModelError


@dataclass(frozen=True)
class _Kind:
    """What all layers of a network share."""

    psp: PSP
    threshold: float
    horizon: int
    binary: bool
    scales: Scales


def single_spike(
    layers: Iterable[nn.Module],
    input_shape: Sequence[int],
    *,
    psp: PSP | None = None,
    window: float = 16.0,
    horizon: int = 32,
    threshold: float = 1.0,
    binary: bool = False,
    scales: Scales = "layer",
    sharpness: float = 40.0,
    negative: bool = False,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> SpikingNetwork:
    """Return an untrained network of exact spike times, one spike a neuron at most.

    An image of brightness ``I`` spikes at ``(1 - I) window``; the answer comes by ``horizon``, and
    ``snn(x, steps=t)`` is the answer at a latency of ``t`` steps. Weights are taken over from the
    layers; ``fit_times`` scales them so that neurons fire.

    Args:
        layers: ``Conv2d``, ``MaxPool2d`` (the earliest spike passes), ``Flatten``, ``Linear``, and
            ``ReLU``, which says nothing here; an ``nn.Sequential`` of them will do.
        input_shape: ``(C, H, W)`` of an image.
        psp: the potential that a spike leaves behind; ``LinearPSP`` with ``τ = window`` by default.
        window: in steps.
        horizon: the end of time, in steps; the network's ``steps``.
        threshold: ``θ`` of all neurons.
        binary: whether weights are ``α sign(w)``, ``α`` learned.
        scales: one ``α`` for each layer, or for each neuron (of a convolution, each channel).
        sharpness: of the logits ``sharpness (1 - t/horizon)`` that a loss sees; more where classes
            differ by fractions of a step.
        negative: whether images spike as negatives too; the first layer then takes twice the
            channels of an image.
        mean: of the images' preparation; they come as they are, from 0 to 1, by default.
        std: likewise.

    Raises:
        ModelError: on a layer that spike times cannot pass, naming it.
        SpiketuneError: on a threshold, a window, a horizon, a mean or a std out of range, or
            layers that do not fit one another.

    Source: Mirsadeghi et al. 2021, 2023 (STiDi-BP); sizes, window and horizon are our own.

    Example:
        >>> import torch
        >>> layers = [nn.Conv2d(1, 4, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(),
        ...           nn.Linear(36, 10, bias=False)]
        >>> snn = single_spike(layers, (1, 8, 8))
        >>> list(snn(torch.rand(2, 1, 8, 8)).shape), list(snn.unroll(torch.rand(2, 1, 8, 8)).shape)
        ([2, 10], [32, 2, 10])
    """
    latency = Latency(window=window, horizon=horizon, mean=mean, std=std, negative=negative)
    kind = _Kind(psp or LinearPSP(tau=window), threshold, horizon, binary, scales)
    units: list[tuple[str, nn.Module]] = [("latency", latency)]
    for place, layer in enumerate(layers):
        made = _unit(layer, kind, f"layer {place}")
        if made is not None:
            name, unit = made
            units.append((f"{name}{len(units)}", unit))
    if not isinstance(units[-1][1], TimedLinear):
        raise ModelError("a network of spike times ends in its classes; give a Linear layer last")
    units.append(("race", Race(horizon=horizon, sharpness=sharpness)))
    snn = SpikingNetwork(
        _chain(units), steps=horizon, input_shape=tuple(input_shape), readout=Membrane(),
        pretrained_cfg={"mean": list(mean), "std": list(std)},
        about={"method": "direct single spike", "spikes": "single"},
    )  # fmt: skip
    snn.shapes()  # says which layer does not fit
    neurons = (name for name, unit in units if isinstance(unit, TimedConv2d | TimedLinear))
    snn.report = Report(tuple(Row(name, "weights", "neuron", "one spike each") for name in neurons))
    return snn.train()


def _chain(units: Iterable[tuple[str, nn.Module]]) -> GraphModule:
    """Return the graph in which each unit takes what the one before it sends."""
    root, graph = nn.Module(), Graph()
    value = graph.placeholder("x")
    for name, unit in units:
        root.add_module(name, unit)
        value = graph.call_module(name, (value,))
        value.meta = {"path": name}
    graph.output(value)
    return GraphModule(root, graph)


def _unit(layer: nn.Module, kind: _Kind, place: str) -> tuple[str, nn.Module] | None:
    """Return name and unit of a layer; None for one that says nothing here."""
    make = _MAKE.get(type(layer))
    if make is None:
        raise ModelError(
            f"{place}: spike times cannot pass a {type(layer).__name__}; give Conv2d, MaxPool2d, "
            "Flatten and Linear"
        )
    return make(layer, kind, place)


def _shared(layer: nn.Conv2d | nn.Linear, kind: _Kind, place: str) -> dict[str, Any]:
    if layer.bias is not None:
        raise ModelError(
            f"{place}: a bias has no time at which it could arrive; make the layer with bias=False"
        )
    return {"psp": kind.psp, "threshold": kind.threshold, "horizon": kind.horizon,
            "binary": kind.binary, "scales": kind.scales}  # fmt: skip


def _convolution(layer: Any, kind: _Kind, place: str) -> tuple[str, nn.Module]:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if not plain or isinstance(layer.padding, str):
        raise ModelError(
            f"{place}: a convolution of spike times has no groups, no dilation and padding by "
            f"number, not {layer}"
        )
    shared = _shared(layer, kind, place)
    return "conv", TimedConv2d(layer.weight, stride=layer.stride, padding=layer.padding, **shared)


def _linear(layer: Any, kind: _Kind, place: str) -> tuple[str, nn.Module]:
    return "linear", TimedLinear(layer.weight, **_shared(layer, kind, place))


def _pool(layer: Any, kind: _Kind, place: str) -> tuple[str, nn.Module]:
    size = layer.kernel_size
    plain = layer.stride == size and not layer.padding and layer.dilation == 1
    if not isinstance(size, int) or not plain or layer.ceil_mode or layer.return_indices:
        raise ModelError(
            f"{place}: windows of spike times are square, lie side by side and drop an odd border, "
            f"unlike those of {layer}; give MaxPool2d(2)"
        )
    return "pool", EarliestPool2d(size=size)


def _flat(layer: Any, kind: _Kind, place: str) -> None:
    """Return nothing: fully connected layers take whatever arrives."""
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ModelError(f"{place}: all of an image is flattened, not {layer}; give Flatten()")


def _nothing(layer: Any, kind: _Kind, place: str) -> None:
    return None


Make = Callable[[Any, _Kind, str], tuple[str, nn.Module] | None]
_MAKE: dict[type[nn.Module], Make] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.MaxPool2d: _pool,
    nn.Flatten: _flat,
    nn.ReLU: _nothing,
}
