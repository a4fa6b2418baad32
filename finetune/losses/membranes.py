"""Losses that also look at the membranes just before they may fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spiketune.snn import Charging, Neuron, SpikingNetwork, State, over_time

from ..errors import TuneError
from ..rules import Batch, Criterion
from ..watch import Look, Watch
from .answers import MeanCrossEntropy
from .loss import Loss, Scene, build, register_loss


@dataclass(frozen=True, kw_only=True)
class RMP(Loss):
    """``L = L_answers + λ mean_l mean(min(|u/θ|, |u/θ - 1|)^p)``: membranes pulled to 0 or to θ.

    ``u [T, B, ...]`` is the membrane after leak and current, before it may fire: what differs from
    0 or θ then is what the spike does not say. The inner mean runs over steps, images and neurons,
    the outer over layers. Membranes are counted in thresholds, so that layers of any scale weigh
    alike; with θ = 1 that is the paper's form.

    The paper raises ``λ`` over the epochs; how is not known here, so it is constant, and its
    default is ours.

    Attributes:
        answers: loss of the answers.
        weight: ``λ``.
        power: ``p``.

    Raises:
        TuneError: on a weight that is not above 0, or a power below 1.

    Source: Guo et al. 2023 (RMP-Loss).

    Example:
        >>> RMP(weight=0.5).power
        2.0
    """

    answers: Loss = MeanCrossEntropy()  # noqa: RUF009 (frozen)
    weight: float = 0.1
    power: float = 2.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise TuneError(f"RMP: weight must be above 0, not {self.weight}")
        if self.power < 1:
            raise TuneError(f"RMP: power must be at least 1, not {self.power}")


@dataclass(frozen=True, kw_only=True)
class IMLoss(Loss):
    """``L = L_answers + λ Σ_l (mean(u_l/θ) - 1)²``: as many membranes above θ as below it.

    ``u_l [T, B, ...]`` are a layer's membranes after leak and current, before they may fire; where
    they are as often above as below the threshold, a spike tells most. ``of="current"`` is the
    form of the authors' code, ``λ Σ_l (mean(c_l/θ) - 1/(2T))²`` of the currents. All is counted in
    thresholds; the paper's layers all have the same.

    The means run over the images of a batch and are squared then, so that batches accumulated, or
    shared among processes, are pulled each by itself.

    Attributes:
        answers: loss of the answers.
        weight: ``λ``; that of the authors' code.
        of: ``membrane`` or ``current``.

    Raises:
        TuneError: on a weight that is not above 0, or another ``of``.

    Source: Guo et al. 2022 (IM-Loss). The constant 1/2 of the code is taken to be in thresholds.

    Example:
        >>> IMLoss(of="current").weight
        0.005
    """

    answers: Loss = MeanCrossEntropy()  # noqa: RUF009 (frozen)
    weight: float = 0.005
    of: Literal["membrane", "current"] = "membrane"

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise TuneError(f"IMLoss: weight must be above 0, not {self.weight}")
        if self.of not in _IM:
            raise TuneError(f"IMLoss: of must be membrane or current, not {self.of!r}")


@register_loss(RMP)
def rmp(loss: RMP, scene: Scene) -> Criterion:
    """Return the criterion; refuse neurons that are not binary."""

    def penalty(neuron: Neuron, current: Tensor, sent: Tensor, state: State | None) -> Tensor:
        relative = before_firing(neuron, current, sent, state) / neuron.threshold
        nearest = (relative > 0.5).to(relative.dtype)
        return _each_step((relative - nearest).abs() ** loss.power)

    return _added(loss.answers, scene, penalty, "RMP", lambda means: loss.weight * means.mean())


@register_loss(IMLoss)
def im_loss(loss: IMLoss, scene: Scene) -> Criterion:
    """Return the criterion; refuse neurons that are not binary."""
    look, goal = _IM[loss.of]

    def penalty(means: Tensor) -> Tensor:
        return loss.weight * (means - goal(scene.steps)).square().sum()

    return _added(loss.answers, scene, look, "IMLoss", penalty)


def _added(
    answers: Loss, scene: Scene, look: Look, name: str, penalty: Callable[[Tensor], Tensor]
) -> Criterion:
    """Return the answers' criterion with a penalty on the layers' means ``[layers]`` added."""
    if not list(_binary(scene.snn, name)):
        raise TuneError(
            f"{name} looks at membranes over steps, and the network has no neurons with any; use "
            "MeanCrossEntropy()"
        )
    # Looked at again when the watch starts: the rule may have exchanged neurons by then.
    watch = Watch(lambda: _binary(scene.snn, name), look, name)
    scene.watches.append(watch)
    of_answers = build(answers, scene)

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        sums = watch.take(scene.steps)
        return of_answers(outputs, batch) + penalty(torch.stack(sums) / scene.steps)

    return criterion


def _binary(snn: SpikingNetwork, name: str) -> Iterator[tuple[str, Neuron]]:
    """Yield the neurons; refuse those whose membrane has more answers than two."""
    for place, neuron in snn.neurons():
        if not isinstance(neuron, Charging):
            raise TuneError(
                f"{place}: {name} pulls membranes to the two answers of a binary neuron, and a "
                f"{type(neuron).__name__} is none; convert with Binary(), build it with "
                "neuron=PlainNeuron() or LeakyNeuron(), or use MeanCrossEntropy() or TET()"
            )
        yield place, neuron


def before_firing(neuron: Neuron, current: Tensor, sent: Tensor, state: State | None) -> Tensor:
    """Return the membranes ``u [T, B, ...]`` at which a binary neuron decided, with gradients.

    ``u[t] = charge(m[t-1], c[t])``, such as ``λ m[t-1] + c[t]``, ``m`` the membrane after the
    reset by the spikes that were sent. Following the spikes costs a few elementwise operations a
    step and no second firing.

    Args:
        neuron: one that charges a membrane: ``IF``, ``LIF``, ``PLIF``.
        current: ``[T, B, ...]``.
        sent: what the neuron answered, ``[T, B, ...]``.
        state: before the first step, None for a fresh start.

    Example:
        >>> from spiketune.snn import IF
        >>> neuron = IF(torch.tensor(1.0))
        >>> current = torch.tensor([[0.75], [0.75], [0.75]])
        >>> before_firing(neuron, current, neuron(current)[0], None).flatten().tolist()
        [0.75, 1.5, 1.25]
    """
    assert isinstance(neuron, Charging)
    firing, threshold = neuron.firing, neuron.threshold
    spikes = sent / threshold
    spikes = spikes.detach() if firing.detach_reset else spikes
    fired = iter(spikes.unbind(0))

    def step(now: Tensor, before: State) -> tuple[Tensor, State]:
        membrane = neuron.charge(before.membrane, now)
        return membrane, State(firing.reset(membrane, next(fired), threshold))

    return over_time(step, current, neuron.start(current) if state is None else state)[0]


def _membranes(neuron: Neuron, current: Tensor, sent: Tensor, state: State | None) -> Tensor:
    return _each_step(before_firing(neuron, current, sent, state) / neuron.threshold)


def _currents(neuron: Neuron, current: Tensor, sent: Tensor, state: State | None) -> Tensor:
    return _each_step(current / neuron.threshold)


def _each_step(values: Tensor) -> Tensor:
    """Return the sum over the steps of each step's mean."""
    return values.mean() * len(values)


_IM: dict[str, tuple[Look, Callable[[int], float]]] = {
    "membrane": (_membranes, lambda steps: 1.0),
    "current": (_currents, lambda steps: 0.5 / steps),
}
