"""One face for what spikes and what does not: answers at every budget, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spiketune.snn import (
    PSN,
    SignedIF,
    SpiketuneError,
    SpikingNetwork,
    TemporalBatchNorm,
    evaluating,
)
from spiketune.snn.macs import count_macs

from .meter import Meter


class Runner(Protocol):
    """What ``sweep`` needs of a model."""

    kind: str

    def answers(self, x: Tensor) -> Tensor:
        """Return ``[budgets or 1, B, classes]``."""

    def spent(self, steps: int) -> tuple[float | None, float, int]:
        """Return spikes a neuron, accumulates and MACs an image, within a budget."""


class Spiking:
    """A spiking network: one simulation answers every budget."""

    def __init__(self, snn: SpikingNetwork, budgets: Sequence[int]) -> None:
        self._meter = Meter(snn, max(budgets))
        self._places = [budget - 1 for budget in budgets]
        self.kind = str(snn.about.get("spikes") or _kind_of_spike(snn))

    def answers(self, x: Tensor) -> Tensor:
        """Return the answer at every budget."""
        curve: Tensor = self._meter.unroll(x)
        return curve[self._places] if isinstance(curve, Tensor) else curve

    def spent(self, steps: int) -> tuple[float | None, float, int]:
        """Return what the meter counted within the budget."""
        meter = self._meter
        return meter.spikes_per_neuron(steps), meter.accumulates(steps), meter.macs(steps)


class Dense:
    """Any other network: one answer, whatever the budget."""

    kind = "ann"

    def __init__(self, ann: nn.Module, image: Tensor) -> None:
        self._ann = ann
        self._macs = count_macs(ann, image)

    def answers(self, x: Tensor) -> Tensor:
        """Return the single answer."""
        out: Tensor = self._ann(x)
        return out.unsqueeze(0) if isinstance(out, Tensor) else out

    def spent(self, steps: int) -> tuple[float | None, float, int]:
        """Return the multiply-accumulates of one pass."""
        return None, 0.0, self._macs


def require_steps(models: Mapping[str, nn.Module], longest: int) -> None:
    """Refuse networks that cannot run the largest budget, before any of them runs.

    Raises:
        SpiketuneError: naming the network and the steps that it was made for.
    """
    spiking = {name: one for name, one in models.items() if isinstance(one, SpikingNetwork)}
    for name, snn in spiking.items():
        for unit in snn.modules():
            only = isinstance(unit, PSN) and unit.steps != longest
            if only or (isinstance(unit, TemporalBatchNorm) and unit.steps < longest):
                raise SpiketuneError(
                    f"{name!r} has a {type(unit).__name__} made for {unit.steps} steps and cannot "
                    f"run {longest}; give steps={unit.steps} (--steps {unit.steps} on the command "
                    "line), or leave this network out"
                )


Applies = Callable[[nn.Module], bool]
Make = Callable[[Any, Sequence[int], Tensor], Runner]

_RUNNERS: list[tuple[Applies, Make]] = []


def register_runner(applies: Applies) -> Callable[[Make], Make]:
    """Register what makes the runner of some models; those registered later are asked first.

    It is called with the model, the budgets, and an image ``[1, ...]`` for counting operations.
    """

    def register(make: Make) -> Make:
        _RUNNERS.insert(0, (applies, make))
        return make

    return register


def runner(name: str, model: nn.Module, budgets: Sequence[int], image: Tensor) -> Runner:
    """Return the runner for a model; ``image [1, ...]`` is for counting operations."""
    for applies, make in _RUNNERS:
        if applies(model):
            return make(model, budgets, image)
    hidden = [path for path, m in model.named_modules() if isinstance(m, SpikingNetwork)]
    if hidden:
        raise SpiketuneError(
            f"{name!r} wraps a spiking network ({hidden[0]}), so that its steps cannot be seen; "
            "give the SpikingNetwork itself"
        )
    return Dense(model, image)


@register_runner(lambda model: isinstance(model, SpikingNetwork))
def _spiking(model: SpikingNetwork, budgets: Sequence[int], image: Tensor) -> Runner:
    return Spiking(model, budgets)


def _kind_of_spike(snn: SpikingNetwork) -> str:
    signed = any(isinstance(neuron, SignedIF) for _, neuron in snn.neurons())
    return "ternary" if signed else "binary"


@contextmanager
def placed(name: str, model: nn.Module, device: torch.device | None) -> Iterator[torch.device]:
    """Put a model on a device, in evaluation mode and without gradients; then back as it was."""
    places = {t.device for t in (*model.parameters(), *model.buffers())}
    home = next(iter(places), torch.device("cpu"))
    target = home if device is None else device
    if len(places) > 1:
        raise SpiketuneError(
            f"{name!r} lies on {len(places)} devices ({', '.join(sorted(map(str, places)))}); "
            "move it to one with .to(device)"
        )
    try:
        with torch.no_grad(), evaluating(model):
            model.to(target)
            yield target
    finally:
        model.to(home)
