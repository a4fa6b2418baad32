"""How the weight of a spike changes from step to step, the same for every neuron of a network.

A spike sent at step ``t`` counts ``g(t) θ``. Scaling time by ``1/g`` gives plain spikes of weight
``θ`` again, and a membrane that grows by ``g(t-1)/g(t)`` from step to step.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import SpiketuneError


@dataclass(frozen=True, kw_only=True)
class Constant:
    """``g(t) = 1``: every spike counts the same.

    Example:
        >>> Constant()(5)
        1.0
    """

    def __call__(self, step: int) -> float:
        """Return the weight of a spike at a step, counted from 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Harmonic:
    """``g(t) = 1/t``: a spike counts as in an average over the steps so far.

    Source: differential coding, Huang et al. 2025 (DCGS).

    Example:
        >>> Harmonic()(4)
        0.25
    """

    def __call__(self, step: int) -> float:
        """Return the weight of a spike at a step, counted from 1."""
        return 1 / step


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """``g(t) = b^(-max(t - hold, 0))``: early spikes carry the high digits, late ones the low.

    While the weight is held, deep layers follow what the layers before are still sending.

    Attributes:
        base: ``b``, above 1; 2 halves the weight at every step.
        hold: steps during which every spike counts in full; need not be whole.

    Raises:
        SpiketuneError: on a base or a hold out of range.

    Source: weighted spikes, Kim et al. 2018; one-spike phase coding, base 1.15, in SpikedAttention
    (Hwang et al. 2024).

    Example:
        >>> Geometric(base=2.0)(3)
        0.25
    """

    base: float = 1.15
    hold: float = 1.0

    def __post_init__(self) -> None:
        if not self.base > 1 or self.hold < 1:
            raise SpiketuneError(
                f"base must be above 1 and hold at least 1, not {self.base} and {self.hold}"
            )

    def __call__(self, step: int) -> float:
        """Return the weight of a spike at a step, counted from 1."""
        # Not below what a float can still add to a membrane.
        return float(max(self.base ** -max(step - self.hold, 0.0), 1e-30))


Schedule = Constant | Harmonic | Geometric
