"""The leaky neuron that rests for some steps after each spike."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import leak_of
from .dynamics import Firing, HardReset, State, lif_charge
from .errors import SpiketuneError
from .neurons import Neuron
from .surrogate import fire
from .units import register_unit

_HARD = Firing(reset=HardReset(), strict=True)


@register_unit
class Refractory(Neuron):
    """Leaky integrate-and-fire neuron with a refractory period of ``P`` steps.

    ``u[t] = λ v[t-1] + c[t]``, but 0 during the ``P`` steps after a spike; ``s[t] = 1[u[t] > θ]``;
    ``v[t] = u[t] (1 - s[t])``. It fires in one step out of ``P + 1`` at most. With a ``Synapse`` of
    ``delayed=True`` before it, it is the neuron of HM2-BP and ST-RSBP.

    Args:
        threshold: as in ``Neuron``.
        leak: ``λ`` in (0, 1]; ``1 - 1/τ_m`` of a time constant in steps.
        period: ``P``, in steps; 0 is the plain leaky neuron.
        initial: as in ``Neuron``, like those that follow.
        floor: see above.
        ceiling: see above.
        firing: see above; the reset is hard, to 0; by default ``u > θ`` fires, not ``u = θ``.
        folded: see above.

    Raises:
        SpiketuneError: on a leak outside (0, 1], a negative period, or another reset.

    Source: the forward pass of the programs of Jin, Zhang & Li 2018 (HM2-BP) and Zhang & Li 2019
    (ST-RSBP): ``λ = 63/64``, ``P = 2``.

    Example:
        >>> spikes, _ = Refractory(torch.tensor(1.0), leak=1.0, period=2)(torch.ones(7, 1))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """

    settings = (*Neuron.settings, "period")
    tensors = (*Neuron.tensors, "leak")

    def __init__(
        self,
        threshold: Tensor,
        *,
        leak: Tensor | float = 1 - 1 / 64,
        period: int = 2,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold,
            initial=initial,
            floor=floor,
            ceiling=ceiling,
            firing=firing or _HARD,
            folded=folded,
        )
        if isinstance(period, bool) or not isinstance(period, int) or period < 0:
            raise SpiketuneError(f"period must be 0 steps or more, a whole number, not {period!r}")
        if self.firing.reset != HardReset():
            raise SpiketuneError(
                f"a refractory neuron rests at 0, so {self.firing.reset} does not fit; use "
                "Firing(reset=HardReset())"
            )
        self.leak = leak_of(leak, threshold)
        self.period = period

    def start(self, current: Tensor) -> State:
        """Return the state before the first step; the tracer counts the steps still to rest."""
        membrane = super().start(current).membrane
        return State(membrane, torch.zeros_like(membrane))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        assert state.tracer is not None
        charged = lif_charge(state.membrane, current, self.leak)
        charged = charged.masked_fill(state.tracer > 0, 0.0)
        spikes = fire(
            charged / self.threshold - 1, self.firing.surrogate, strict=self.firing.strict
        )
        reset_by = spikes.detach() if self.firing.detach_reset else spikes
        resting = (state.tracer - 1).clamp_min(0) + self.period * spikes.detach()
        return self.threshold * spikes, State(charged * (1 - reset_by), resting)
