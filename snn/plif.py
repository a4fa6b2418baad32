"""The leaky neuron that learns its own time constant (PLIF)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .dynamics import Firing, HardReset
from .errors import SpiketuneError
from .neurons import Charging, Neuron
from .units import register_unit


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


def plif_charge(membrane: Tensor, current: Tensor, decay: Tensor, rest: float = 0.0) -> Tensor:
    """Return the membrane ``u = v + sigmoid(w) (c - (v - v_r))`` before it may fire.

    Args:
        membrane: ``v [B, ...]``.
        current: ``c [B, ...]``.
        decay: ``w``, broadcastable to the current; ``sigmoid(w) = 1/τ``.
        rest: ``v_r``.

    Source: Fang et al. 2021 (PLIF), the charging equation of the neuron.

    Example:
        >>> one = torch.tensor(1.0)
        >>> plif_charge(0 * one, one, 0 * one).item()
        0.5
    """
    return membrane + torch.sigmoid(decay) * (current - (membrane - rest))


@register_unit
class PLIF(Charging):
    """Leaky neuron whose time constant trains along with the weights (see ``plif_charge``).

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

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        """Return ``v + sigmoid(w) (c - (v - v_r))``, ``v_r`` where a hard reset leads, else 0."""
        reset = self.firing.reset
        rest = reset.to if isinstance(reset, HardReset) else 0.0
        return plif_charge(membrane, current, self.decay, rest)

    def keeps(self) -> Tensor:
        """Return ``1 - sigmoid(w)``."""
        return 1 - torch.sigmoid(self.decay)
