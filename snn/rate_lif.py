"""The leaky neuron with a refractory time whose rate is the soft LIF curve's, exactly timed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dynamics import Firing, HardReset, State
from .errors import SpiketuneError
from .neurons import Neuron
from .soft_lif import check_curve, soft_lif
from .surrogate import fire
from .units import register_unit

_FIRING = Firing(reset=HardReset(), strict=True)


@register_unit
class RateLIF(Neuron):
    """LIF neuron with a refractory time, on a grid of steps of ``Δ`` seconds.

    ``τ_rc dv/dt = J - v`` is solved exactly within a step, so that it fires at the rate of
    ``soft_lif`` with ``γ = 0`` whatever the grid. Of a step it charges for ``δ = clip(Δ - r, 0,
    Δ)``, where ``r`` of its rest is left:

        ``v[t] = J + (v[t-1] - J) exp(-δ/τ_rc)``;   ``s[t] = 1[v[t] > 1]``

    and where it fires it has crossed 1 already ``x = τ_rc ln((J - 1)/(J - v[t]))`` before the step
    ends: ``v <- 0``, ``r <- τ_ref - x``. Elsewhere ``r <- max(r - Δ, 0)``. What is carried is ``w =
    exp(r/τ_rc)``, which takes neither logarithm nor exponential: ``exp(-δ/τ_rc) = min(k w, 1)``
    with ``k = exp(-Δ/τ_rc)``; then ``w <- max(k w, 1)``, or ``exp(τ_ref/τ_rc) (J - v)/(J - 1)``
    after a spike.

    Args:
        threshold: size ``A/Δ`` of one spike, so that the mean over the steps is ``A`` times the
            rate; the membrane fires at 1, whatever it is.
        dt: ``Δ``, in seconds, at most ``tau_ref``: a neuron fires once a step.
        tau_rc: time constant of the membrane, in seconds.
        tau_ref: rest after a spike, in seconds.
        gamma: ``γ`` of the curve that it was trained with and stands for; 0 for its own.
        initial: membrane at the start, 1 being where it fires.
        firing: surrogate, and whether the reset has a gradient; the rest has none. The reset is a
            hard one to 0, and it fires above 1.
        folded: as in ``Neuron``.

    Raises:
        SpiketuneError: on a step longer than the rest, time constants that are not above 0, or
            another reset.

    Source: Hunsberger & Eliasmith 2016, the LIF neuron deployed; timing within a step derived
    here from the exact solution.

    Example:
        >>> neuron = RateLIF(torch.tensor(10.0))  # A = 0.01 in steps of 1 ms
        >>> spikes, _ = neuron(torch.full((2000, 1), 2.0))
        >>> rate = neuron.ann(torch.tensor([2.0]))
        >>> round(spikes.mean().item(), 3), round(rate.item(), 3)
        (0.63, 0.63)
    """

    settings = ("firing", "folded", "dt", "tau_rc", "tau_ref", "gamma")
    tensors = ("threshold", "initial")
    balanced = False

    def __init__(
        self,
        threshold: Tensor,
        *,
        dt: float = 0.001,
        tau_rc: float = 0.02,
        tau_ref: float = 0.002,
        gamma: float = 0.02,
        initial: Tensor | float = 0.0,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(threshold, initial=initial, firing=firing or _FIRING, folded=folded)
        check_curve(tau_rc, tau_ref, gamma)
        if not 0 < dt <= tau_ref:
            raise SpiketuneError(
                f"dt must be above 0 and at most tau_ref={tau_ref:g} seconds, not {dt:g}: in a "
                "longer step a neuron could fire twice"
            )
        if self.firing.reset != HardReset() or not self.firing.strict:
            raise SpiketuneError(
                "a RateLIF resets to 0 and fires above 1; give Firing(reset=HardReset(), "
                "strict=True, surrogate=...), or none"
            )
        self.dt, self.tau_rc, self.tau_ref, self.gamma = dt, tau_rc, tau_ref, gamma

    @property
    def amplitude(self) -> Tensor:
        """``A``, what a rate of one spike a second counts as."""
        return self.threshold * self.dt

    def start(self, current: Tensor) -> State:
        """Return the state before the first step: the membrane, and ``w = 1``, for no rest."""
        dtype = torch.promote_types(current.dtype, self.threshold.dtype)
        membrane = self.initial.to(dtype).expand(current.shape[1:])
        return State(membrane, torch.ones_like(membrane))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step; ``w`` is the state's tracer."""
        assert state.tracer is not None
        kept = math.exp(-self.dt / self.tau_rc) * state.tracer
        membrane = current + (state.membrane - current) * kept.clamp_max(1)
        spikes = fire(membrane - 1, self.firing.surrogate, strict=True)
        reset_by = spikes.detach() if self.firing.detach_reset else spikes
        fired = spikes.detach() > 0
        beyond, rest = current.detach(), math.exp(self.tau_ref / self.tau_rc)
        left = rest * (beyond - membrane.detach()) / torch.where(fired, beyond - 1, 1)
        after = State(membrane * (1 - reset_by), torch.where(fired, left, kept.clamp_min(1)))
        return self.threshold * spikes, after

    def activation(self, x: Tensor) -> Tensor:
        """Return the rates of the curve times ``A``."""
        curve = {"tau_rc": self.tau_rc, "tau_ref": self.tau_ref, "gamma": self.gamma}
        return soft_lif(x, **curve, amplitude=1.0) * self.amplitude

    def extra_repr(self) -> str:
        """Say the size of a spike and what was set."""
        names = ("dt", "tau_rc", "tau_ref", "gamma")
        said = ", ".join(f"{name}={getattr(self, name):g}" for name in names)
        return f"threshold={list(self.threshold.shape)}, {said}, {self.firing}"
