"""Integrate-and-fire neurons with binary spikes: the oldest conversion, and the simplest hardware.

``v += c``; ``s = 1[v >= θ]``; ``v -= θ s``. Averaged over T steps a neuron says
``θ/T clip(floor(TΣc/(Tθ) + v_0/θ), 0, T)`` of a constant current. A spike sent too early, while
the layers before had not settled, cannot be taken back: the unevenness error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from spiketune.snn import IF, Firing, HardReset, SoftReset, SpiketuneError

from .method import Ceiling, Integrating, at_every_step, register_method

Reset = Literal["soft", "hard"]


@dataclass(frozen=True, kw_only=True)
class Binary(Integrating):
    """Convert to integrate-and-fire neurons, spikes in {0, 1}.

    Attributes:
        reset: ``soft`` keeps what is above the threshold; ``hard`` sets ``v = 0`` and loses it.

    Raises:
        SpiketuneError: on another reset.

    Source: Diehl et al. 2015 (hard reset); Rueckauer et al. 2017 (soft reset); Bu et al. 2022 for
    ``initial = 0.5``.

    Example:
        >>> Binary(steps=32).steps
        32
    """

    reset: Reset = "soft"

    spikes = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_every_step(self)
        if self.reset not in get_args(Reset):
            raise SpiketuneError(f"reset must be 'soft' or 'hard', not {self.reset!r}")


@register_method(Binary)
def _neuron(method: Binary, threshold: Tensor, floor: float | None, ceiling: Ceiling) -> IF | None:
    if floor != 0:
        return None  # a binary spike has no sign
    firing = Firing(reset=HardReset() if method.reset == "hard" else SoftReset())
    return IF(threshold, initial=method.initial, ceiling=ceiling, firing=firing)
