"""The leaky neuron that learns its own time constant (PLIF)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .dynamics import Firing, HardReset, State, if_step
from .errors import SpiketuneError
from .neurons import Neuron


def decay_of(tau: float) -> float:
    """Return ``w = -ln(τ - 1)``, so that ``sigmoid(w) = 1/τ``.

    Args:
        tau: ``τ``, the membrane's time constant in steps, above 1.

    Raises:
        SpiketuneError: on a time constant of 1 or less.

    Source: Fang et al. 2021 (PLIF), the initial value of ``w``.

    Example:
        >>> abs(decay_of(tau=2.0))
        0.0
    """
    if not tau > 1:
        raise SpiketuneError(f"tau must be above 1 step, not {tau}; an IF neuron has no leak")
    return -math.log(tau - 1)


def plif_step(
    current: Tensor, state: State, threshold: Tensor, decay: Tensor, firing: Firing
) -> tuple[Tensor, State]:
    """Advance one step: ``v += sigmoid(w) (c - (v - v_r))``; ``s = 1[v >= θ]``; reset.

    Args:
        current: ``[B, ...]``.
        state: membrane before the step.
        threshold: broadcastable to the current.
        decay: ``w``, broadcastable to the current; ``sigmoid(w) = 1/τ``.
        firing: reset, comparison and surrogate; ``v_r`` is where a hard reset leads to, else 0.

    Returns:
        Spikes times threshold ``[B, ...]``, and the state after the step.

    Source: Fang et al. 2021 (PLIF), the charging equation of the neuron.

    Example:
        >>> one = torch.tensor(1.0)
        >>> _, state = plif_step(one, State(0 * one), one, 0 * one, Firing())
        >>> state.membrane.item()
        0.5
    """
    rest = firing.reset.to if isinstance(firing.reset, HardReset) else 0.0
    charge = torch.sigmoid(decay) * (current - (state.membrane - rest))
    return if_step(charge, state, threshold, firing)


class PLIF(Neuron):
    """Leaky neuron whose time constant trains along with the weights (see ``plif_step``).

    A constant current ``c`` charges the membrane towards ``v_r + c``, not beyond: one below the
    threshold never makes it fire.

    Args:
        threshold: as in ``Neuron``.
        decay: ``w`` with ``sigmoid(w) = 1/τ``, as ``decay_of`` gives it; one for the layer, or of
            any shape that broadcasts to a sample.
        initial: as in ``Neuron``, like those that follow.
        floor: see above.
        ceiling: see above.
        firing: see above.
        folded: see above.

    Source: Fang et al. 2021 (PLIF): ``τ = 2`` at the start, hard reset, ``ATan``.

    Example:
        >>> spikes, _ = PLIF(torch.tensor(1.0), decay=decay_of(2.0))(torch.full((3, 1), 1.5))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    tensors = (*Neuron.tensors, "decay")

    def __init__(
        self,
        threshold: Tensor,
        *,
        decay: Tensor | float = 0.0,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        value = torch.as_tensor(decay, dtype=threshold.dtype, device=threshold.device)
        self.decay = nn.Parameter(value.detach().clone())

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return plif_step(current, state, self.threshold, self.decay, self.firing)
