"""The neuron of the spike response model: two kernels, and no reset."""

from __future__ import annotations

import torch
from torch import Tensor

from .alpha import alpha_decay, alpha_gain, alpha_step
from .checks import number
from .dynamics import Firing, SoftReset, State
from .errors import SpiketuneError
from .neurons import Neuron
from .surrogate import fire
from .units import register_unit


@register_unit
class SRM(Neuron):
    """Spike response neuron: ``u = ε * c + ν * s``, ``s[t] = 1[u[t] >= θ]``.

    With ``ε[n] = (n/τ_s) e^{1-n/τ_s}`` what arrives in one step acts in the later ones, and peaks
    after ``τ_s`` of them; with ``ν[n] = -ρ θ (n/τ_r) e^{1-n/τ_r}`` so does a spike on the neuron
    itself. Both are ``alpha_step``, four traces in all: nothing is cut off, time costs the same at
    every length of the kernels. There is no reset.

    The weights see spikes and the kernel ``ε`` stands behind them, in the neuron: weights and
    kernel are linear and commute, spikes are cheap to weigh, and the traces stay in registers where
    neurons run in kernels of ``snn.fused``. What depends on the image alone is computed once.

    ``∂s/∂u`` is the slope of ``firing``; ``firing.detach_reset`` leaves ``ν * s`` out of the
    gradient, as SLAYER does. ``ann`` is a rectified linear unit's, whose gain this neuron does not
    have: a response to a spike comes to ``e τ_s`` in all.

    Args:
        threshold: as in ``Neuron``.
        tau_synapse: ``τ_s``, in steps.
        tau_refractory: ``τ_r``, in steps.
        refractory: ``ρ >= 0``, the deepest that one spike pushes the membrane, in thresholds.
        floor: as in ``Neuron``, like those that follow.
        ceiling: see above.
        firing: see above; its reset is left as it is.
        folded: see above.

    Raises:
        SpiketuneError: on a time constant that is not above 0 steps, a negative ``ρ``, or a hard
            reset.

    Source: Shrestha & Orchard 2018 (SLAYER), eqs. 1-3; constants of their program, where the
    threshold is 10 and kernels are cut off below 0.01.

    Example:
        >>> neuron = SRM(torch.tensor(10.0))
        >>> current = torch.zeros(12, 1)
        >>> current[[1, 3, 5]] = 7.0
        >>> neuron(current)[0].flatten().nonzero().flatten().tolist()
        [6, 9]
    """

    settings = (*Neuron.settings, "tau_synapse", "tau_refractory", "refractory")
    tensors = ("threshold", "ceiling")

    def __init__(
        self,
        threshold: Tensor,
        *,
        tau_synapse: float = 10.0,
        tau_refractory: float = 1.0,
        refractory: float = 2.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(threshold, floor=floor, ceiling=ceiling, firing=firing, folded=folded)
        for name, tau in (("tau_synapse", tau_synapse), ("tau_refractory", tau_refractory)):
            alpha_decay(tau, name)
        if not (number(refractory) and refractory >= 0):
            raise SpiketuneError(
                f"refractory must be 0 thresholds or more, not {refractory!r}; its kernel is "
                "negative"
            )
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError(
                "an SRM neuron never resets, its refractory kernel does that; leave "
                "Firing(reset=...) out"
            )
        self.tau_synapse, self.tau_refractory = tau_synapse, tau_refractory
        self.refractory = refractory

    @property
    def macs(self) -> int:
        """Three: so many more decaying traces it has than a leaky neuron."""
        return 3

    def start(self, current: Tensor) -> State:
        """Return silent traces, shaped after ``current [T, B, ...]``."""
        dtype = torch.promote_types(current.dtype, self.threshold.dtype)
        rest = torch.zeros_like(current[0], dtype=dtype)
        return State(rest, rest, extra=(rest, rest))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step; the state holds ``ε * c`` and its trace, ``-ν * s/θ`` and its own."""
        assert state.tracer is not None
        membrane, trace = alpha_step(state.membrane, state.tracer, alpha_decay(self.tau_synapse))
        level, sent = state.extra
        held_back, refractory = alpha_step(level, sent, alpha_decay(self.tau_refractory))
        distance = membrane / self.threshold - held_back - 1
        spikes = fire(distance, self.firing.surrogate, strict=self.firing.strict)
        pushing = spikes.detach() if self.firing.detach_reset else spikes
        pushed = self.refractory * alpha_gain(self.tau_refractory) * pushing
        arrived = alpha_gain(self.tau_synapse) * current
        after = State(membrane, trace + arrived, extra=(held_back, refractory + pushed))
        return self.threshold * spikes, after

    def extra_repr(self) -> str:
        """Say the kernels too."""
        kernels = f"tau_synapse={self.tau_synapse}, tau_refractory={self.tau_refractory}"
        return f"{super().extra_repr()}, {kernels}, refractory={self.refractory}"
