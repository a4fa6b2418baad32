"""The alpha kernel, the response to a spike that rises and falls, as a recursion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import positive
from .dynamics import State, over_time
from .errors import SpiketuneError


def alpha_decay(tau: float, name: str = "tau") -> float:
    """Return ``r = e^{-1/τ}``, what is left of a trace a step later.

    Raises:
        SpiketuneError: on a time constant that is not above 0 steps.

    Example:
        >>> round(alpha_decay(10.0), 4)
        0.9048
    """
    if not positive(tau):
        raise SpiketuneError(f"{name} must be above 0 steps, not {tau!r}; give 10")
    return math.exp(-1 / tau)


def alpha_gain(tau: float) -> float:
    """Return ``e/τ``: what arrives times that makes a response with a peak of 1.

    Example:
        >>> round(alpha_gain(10.0), 4)
        0.2718
    """
    return math.e / tau


def alpha_step(level: Tensor, trace: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Return ``b[t] = r (b[t-1] + a[t-1])`` and ``r a[t-1]``, to which what arrives is added.

    With ``a[t] = r a[t-1] + x[t]`` a single ``x = 1`` gives ``b = n r^n`` after ``n`` steps, which
    is ``τ/e`` times the kernel of ``alpha_filter``.

    Args:
        level: ``b[t-1]``, ``[B, ...]``.
        trace: ``a[t-1]``, alike.
        decay: ``r``.

    Example:
        >>> level, trace = alpha_step(torch.tensor(0.0), torch.tensor(1.0), 0.5)
        >>> alpha_step(level, trace, 0.5)[0].item()
        0.5
    """
    return decay * (level + trace), decay * trace


def alpha_filter(x: Tensor, tau: float) -> Tensor:
    """Return ``(ε * x)[t] = Σ_{k<=t} ε[t-k] x[k]`` with ``ε[n] = (n/τ) e^{1-n/τ}``.

    Two traces follow what the sum would, at any length of the kernel; nothing is cut off. Backward
    the same recursion runs from the end: the gradient is ``Σ_{k>=t} ε[k-t] g[k]``. Nothing is kept
    for that.

    Args:
        x: ``[T, B, ...]``.
        tau: ``τ``, the step at which the response to a spike peaks, with 1.

    Returns:
        ``[T, B, ...]``; ``ε[0] = 0``, so that the last step of ``x`` leaves no mark.

    Raises:
        SpiketuneError: on a time constant that is not above 0 steps.

    Source: Shrestha & Orchard 2018 (SLAYER), the spike response kernel.

    Example:
        >>> spike = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
        >>> [round(value, 4) for value in alpha_filter(spike, 2.0).flatten().tolist()]
        [0.0, 0.8244, 1.0, 0.9098]
    """
    alpha_decay(tau)
    filtered: Tensor = _Filtered.apply(x, tau)
    return filtered


class _Filtered(torch.autograd.Function):
    """The recursion forward; backward, where it is its own adjoint, with time reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float) -> Tensor:
        ctx.tau, decay, gain = tau, alpha_decay(tau), alpha_gain(tau)

        def step(now: Tensor, state: State) -> tuple[Tensor, State]:
            assert state.tracer is not None
            level, fading = alpha_step(state.membrane, state.tracer, decay)
            return level, State(level, fading + gain * now)

        rest = torch.zeros_like(x[0])
        return over_time(step, x, State(rest, rest))[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return alpha_filter(grads[0].flip(0), ctx.tau).flip(0), None
