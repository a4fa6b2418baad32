"""Spike times of a layer, and what reaches weights and earlier spikes on the way back.

A neuron fires once, at ``t_j = min{t: V_j(t) >= θ}`` of ``V_j(t) = Σ_i w_ji ε(t - t_i)``. One that
does not reach its threshold before the horizon ``H`` is silent: nothing of it arrives anywhere. For
order and gradient it has the time ``t_j = H + H ln(2 - V_j(H)/θ)`` behind the horizon, as if its
membrane went on from ``V_j(H)`` with the slope ``V'_j = (2 - V_j(H)/θ) θ/H``.

With ``V'_j = Σ_i w_ji ε'(t_j - t_i)``, no less than ``v_min``, the gradient ``g_j = ∂L/∂t_j``
becomes

    ``∂L/∂w_ji = -Σ g_j ε(t_j - t_i)/V'_j``,   ``∂L/∂t_i = Σ_j g_j w_ji ε'(t_j - t_i)/V'_j``,

exact as long as no knot is crossed and ``v_min`` does not act; ``Credit`` says what other rules put
in their place.

Source: the implicit derivative of a threshold crossing (Bohte et al. 2002); Mirsadeghi et al. 2021
(STiDi-BP). The times of silent neurons are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import compiled, eager
from .eager import Crossings, Shares
from .geometry import Geometry
from .psp import PSP, StepPSP


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What of the gradient goes to weights and to earlier spikes.

    Attributes:
        v_min: least slope ``V'_j`` that is divided by, in thresholds a horizon.
        potential: ``-ε(t_j - t_i)/V'_j`` for weights; else ``-1[t_i <= t_j]``.
        chain: the chain rule for earlier spikes; else what they get is ``Σ_j g_j w_ji
            1[t_i <= t_j]``, and of the norm that ``g`` has, image by image.
        sloped: without the chain rule, count each spike by ``ε'(t_j - t_i)``, not as one.
        real: of binary weights, use the real ones for earlier spikes.

    Example:
        >>> Credit(v_min=0.1).chain
        True
    """

    v_min: float = 0.05
    potential: bool = True
    chain: bool = True
    sloped: bool = False
    real: bool = False


EXACT = Credit()


@dataclass(frozen=True)
class Crossing:
    """What a layer's spike times depend on beside times and weights.

    Attributes:
        psp: ``ε``.
        threshold: ``θ``.
        horizon: ``H``, in steps.
        stride: of the window.
        padding: of the window.
        credit: what goes back.

    Example:
        >>> from spiketune.snn.single_spike.psp import LinearPSP
        >>> times, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.3]])
        >>> crossing = Crossing(LinearPSP(tau=1.0), threshold=1.0, horizon=8.0)
        >>> spike_times(times[..., None, None], weight[..., None, None], crossing).item()
        2.625
    """

    psp: PSP
    threshold: float
    horizon: float
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    credit: Credit = EXACT


def spike_times(
    times: Tensor, weight: Tensor, crossing: Crossing, real: Tensor | None = None
) -> Tensor:
    """Return the times ``t_j [B, K, H', W']`` of a layer's neurons, behind ``H`` where silent.

    Args:
        times: ``t_i [B, C, H, W]``; from the horizon on there is no spike.
        weight: ``w [K, C, h, w]``.
        crossing: what else they depend on.
        real: real weights behind binary ones, for ``Credit(real=True)``.

    Example:
        >>> from spiketune.snn.single_spike.psp import StepPSP
        >>> times, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.3]])
        >>> crossing = Crossing(StepPSP(), threshold=1.0, horizon=8.0)
        >>> spike_times(times[..., None, None], weight[..., None, None], crossing).item() > 8
        True
    """
    found: Tensor = _SpikeTimes.apply(times, weight, weight if real is None else real, crossing)
    return found


class _SpikeTimes(torch.autograd.Function):
    """The crossing of a threshold, with the way back that ``Credit`` says."""

    @staticmethod
    def forward(
        ctx: Any, times: Tensor, weight: Tensor, real: Tensor, crossing: Crossing
    ) -> Tensor:
        geometry = Geometry.of(times, weight, crossing.stride, crossing.padding)
        found = _cross(times, weight, geometry, crossing)
        horizon = crossing.horizon
        lack = (1 - found.membranes / crossing.threshold).clamp_min(0)
        late = horizon + horizon * lack.log1p()
        silent = found.times >= horizon
        least = crossing.threshold / horizon
        rule = crossing.credit
        steep = torch.where(
            silent, least * (late / horizon - 1).exp(), found.slopes.clamp_min(rule.v_min * least)
        )
        ctx.save_for_backward(times, real if rule.real else weight, found.times, steep)
        ctx.geometry, ctx.crossing = geometry, crossing
        return torch.where(silent, late, found.times)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        times, weight, fired, steep = ctx.saved_tensors
        crossing: Crossing = ctx.crossing
        rule = crossing.credit
        shares = Shares(
            -gradient / steep if rule.potential else -gradient,
            gradient / steep if rule.chain else gradient,
            crossing.psp if rule.potential else StepPSP(),
            crossing.psp.derivative if rule.chain or rule.sloped else StepPSP(),
        )
        # Half precision is too coarse for times.
        with torch.autocast(gradient.device.type, enabled=False):
            to_weight, to_times = _credit(
                times, weight, fired, ctx.geometry, shares, crossing.horizon,
                ctx.needs_input_grad[0],
            )  # fmt: skip
        if to_times is not None and not rule.chain:
            to_times = _of_norm(to_times, gradient)
        return to_times, to_weight, None, None


def _cross(times: Tensor, weight: Tensor, geometry: Geometry, crossing: Crossing) -> Crossings:
    kernels = compiled.kernels_for(times, weight)
    psp, threshold, horizon = crossing.psp, crossing.threshold, crossing.horizon
    if kernels is None:
        return eager.cross(times, weight, geometry, psp, threshold=threshold, horizon=horizon)
    return compiled.cross(
        kernels[0], times, weight, geometry, psp, threshold=threshold, horizon=horizon
    )


def _credit(
    times: Tensor,
    weight: Tensor,
    fired: Tensor,
    geometry: Geometry,
    shares: Shares,
    horizon: float,
    to_times: bool,
) -> tuple[Tensor, Tensor | None]:
    kernels = compiled.kernels_for(times, weight)
    given = (times, weight, geometry, fired, shares)
    if kernels is None:
        return eager.credit(*given, horizon=horizon, to_times=to_times)
    return compiled.credit(kernels[1], *given, horizon=horizon, to_times=to_times)


def _of_norm(passed: Tensor, like: Tensor) -> Tensor:
    """Return what is passed on with the norm of ``like``, image by image; nothing stays nothing."""
    norm, wanted = (one.flatten(1).norm(dim=1) for one in (passed, like))
    factor = torch.where(norm > 0, wanted / norm, 0.0)
    return passed * factor.view(-1, *[1] * (passed.dim() - 1))
