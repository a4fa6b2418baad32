"""Neuron dynamics as pure functions: one step each, and the one time loop that runs them.

Every step maps ``(current [B, ...], state) -> (spikes [B, ...], state)``; ``over_time`` runs a
step over ``[T, B, ...]``. Spikes leave scaled by the threshold, in the units of the current
(promise of DESIGN.md: every linear layer keeps its weights). No state hides anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .surrogate import Surrogate, Triangle, fire


class State(NamedTuple):
    """What a neuron carries from step to step.

    Attributes:
        membrane: ``v``, ``[B, ...]``.
        tracer: sum of the spikes so far, for neurons that may take them back.
        count: steps so far, where a step depends on it.
        extra: what else it carries, each ``[B, ...]``.

    Example:
        >>> State(torch.zeros(1)).tracer is None
        True
    """

    membrane: Tensor
    tracer: Tensor | None = None
    count: int = 0  # type: ignore[assignment]  # shadows tuple.count
    extra: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class SoftReset:
    """``v <- v - θ s``: what is above the threshold is kept.

    Example:
        >>> SoftReset() == SoftReset()
        True
    """

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Tensor) -> Tensor:
        """Return the membrane after the reset."""
        return membrane - threshold * spikes


@dataclass(frozen=True)
class HardReset:
    """``v <- v (1 - s) + v_r s``: what is above the threshold is lost.

    Example:
        >>> HardReset(to=0.1).to
        0.1
    """

    to: float = 0.0

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Tensor) -> Tensor:
        """Return the membrane after the reset."""
        return membrane * (1 - spikes) + self.to * spikes


Reset = SoftReset | HardReset
Step = Callable[[Tensor, State], tuple[Tensor, State]]


@dataclass(frozen=True, kw_only=True)
class Firing:
    """How a neuron fires and resets; shared by every neuron type.

    Attributes:
        reset: soft or hard.
        strict: fire at ``v > θ`` instead of ``v >= θ``.
        surrogate: slope that stands for the spike's derivative.
        detach_reset: leave the reset out of the gradient (True), or keep the temporal dependency
            of Yang 2020 (False).

    Example:
        >>> Firing(strict=True).detach_reset
        True
    """

    reset: Reset = SoftReset()
    strict: bool = False
    surrogate: Surrogate = Triangle()  # noqa: RUF009 (frozen, so it may be shared)
    detach_reset: bool = True


def if_charge(membrane: Tensor, current: Tensor) -> Tensor:
    """Return the membrane ``u = v + c`` before it may fire; all ``[B, ...]`` or broadcastable.

    Example:
        >>> if_charge(torch.tensor(0.5), torch.tensor(0.25)).item()
        0.75
    """
    return membrane + current


def lif_charge(membrane: Tensor, current: Tensor, leak: Tensor) -> Tensor:
    """Return the membrane ``u = λ v + c`` before it may fire, ``λ`` in (0, 1].

    Example:
        >>> lif_charge(torch.tensor(0.5), torch.tensor(0.25), torch.tensor(0.5)).item()
        0.5
    """
    return if_charge(leak * membrane, current)


def fire_and_reset(membrane: Tensor, threshold: Tensor, firing: Firing) -> tuple[Tensor, State]:
    """Fire at a charged membrane and reset it: ``s = 1[u >= θ]``; ``v = u - θ s`` or hard.

    Args:
        membrane: ``u [B, ...]``, charged with the step's current.
        threshold: broadcastable to the membrane.
        firing: reset, comparison and surrogate.

    Returns:
        Spikes times threshold ``[B, ...]``, and the state after the step.

    Example:
        >>> out, state = fire_and_reset(torch.tensor([1.5]), torch.tensor(1.0), Firing())
        >>> out.item(), state.membrane.item()
        (1.0, 0.5)
    """
    spikes = fire(membrane / threshold - 1, firing.surrogate, strict=firing.strict)
    reset_by = spikes.detach() if firing.detach_reset else spikes
    return threshold * spikes, State(firing.reset(membrane, reset_by, threshold))


def if_step(
    current: Tensor, state: State, threshold: Tensor, firing: Firing
) -> tuple[Tensor, State]:
    """Advance integrate-and-fire neurons one step: ``v += c``; ``s = 1[v >= θ]``; reset.

    Args:
        current: ``[B, ...]``.
        state: membrane before the step.
        threshold: broadcastable to the current.
        firing: reset, comparison and surrogate.

    Returns:
        Spikes times threshold ``[B, ...]``, and the state after the step.

    Source: Rueckauer et al. 2017, eq. 1 (soft reset).

    Example:
        >>> rest, one = State(torch.zeros(1)), torch.tensor(1.0)
        >>> out, state = if_step(torch.tensor([1.5]), rest, one, Firing())
        >>> out.item(), state.membrane.item()
        (1.0, 0.5)
    """
    return fire_and_reset(if_charge(state.membrane, current), threshold, firing)


def lif_step(
    current: Tensor, state: State, threshold: Tensor, leak: Tensor, firing: Firing
) -> tuple[Tensor, State]:
    """Advance leaky neurons one step: ``v = λ v + c``; ``s = 1[v >= θ]``; reset.

    Args:
        current: ``[B, ...]``.
        state: membrane before the step.
        threshold: broadcastable to the current.
        leak: ``λ = 1 - 1/τ`` in (0, 1]; 1 is the neuron without leak.
        firing: reset, comparison and surrogate.

    Returns:
        Spikes times threshold ``[B, ...]``, and the state after the step.

    Source: discrete LIF of Wu et al. 2018 (STBP) and Yang 2020.

    Example:
        >>> one = torch.tensor(1.0)
        >>> _, state = lif_step(0 * one, State(one / 2), one, one / 2, Firing())
        >>> state.membrane.item()
        0.25
    """
    return fire_and_reset(lif_charge(state.membrane, current, leak), threshold, firing)


def signed_if_step(
    current: Tensor, state: State, threshold: Tensor, limit: float | None, firing: Firing
) -> tuple[Tensor, State]:
    """Advance ternary neurons one step; a spike sent too early is taken back.

    ``v += c``; ``s = +1`` if ``v >= θ`` and ``S < limit``; ``s = -1`` if ``v < 0`` and ``S > 0``;
    ``v -= θ s``; ``S += s``. Once quiet, ``S = clip(floor(Σc/θ + v_0/θ), 0, limit)``: with
    ``v_0 = θ/2`` this is the quantised ReLU, exactly.

    Args:
        current: ``[B, ...]``.
        state: membrane and tracer before the step.
        threshold: broadcastable to the current.
        limit: most spikes the tracer may hold, None for no bound.
        firing: comparison and surrogate; the reset is always soft.

    Returns:
        Spikes in {-1, 0, 1} times threshold ``[B, ...]``, and the state after the step.

    Raises:
        ValueError: if the state has no tracer.

    Source: signed IF of Wang et al. 2022 (SNM); ST-BIF of SpikeZIP-TF (You et al. 2024).

    Example:
        >>> one = torch.tensor(1.0)
        >>> out, _ = signed_if_step(-one, State(one / 2, one), one, None, Firing())
        >>> out.item()
        -1.0
    """
    if state.tracer is None:
        raise ValueError("a signed neuron needs a tracer; start it with State(membrane, tracer)")
    membrane = if_charge(state.membrane, current)
    relative = membrane / threshold
    up = fire(relative - 1, firing.surrogate, strict=firing.strict)
    if limit is not None:
        up = up * (state.tracer < limit)
    # Strict on purpose: a membrane at exactly 0 holds no debt to pay back.
    down = fire(-relative, firing.surrogate, strict=True) * (state.tracer > 0)
    spikes = up - down
    sent = threshold * spikes
    detached = firing.detach_reset and spikes.requires_grad
    taken = threshold * spikes.detach() if detached else sent
    return sent, State(membrane - taken, state.tracer + spikes.detach())


def over_time(step: Step, current: Tensor, state: State) -> tuple[Tensor, State]:
    """Run one step function over the time axis: the only time loop of the project.

    Args:
        step: ``(current [B, ...], state) -> (spikes [B, ...], state)``.
        current: ``[T, B, ...]``.
        state: state before the first step.

    Returns:
        Spikes ``[T, B, ...]`` and the state after the last step.

    Example:
        >>> step = lambda c, s: if_step(c, s, torch.tensor(1.0), Firing())
        >>> out, state = over_time(step, torch.full((4, 1), 0.5), State(torch.zeros(1)))
        >>> out.flatten().tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    outputs = []
    for now in current.unbind(0):
        spikes, state = step(now, state)
        outputs.append(spikes)
    return torch.stack(outputs), state
