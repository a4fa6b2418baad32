"""Integrate-and-fire neurons that send several spikes in one step.

``s = clip(floor(v/θ), 0, m)``: what a neuron could not send in time, because it fires once a step
at most, it sends at once. The range of its answer grows from ``θ`` to ``m θ``; a spike sent too
early still cannot be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spiketune.snn import Burst as BurstNeuron
from spiketune.snn import SpiketuneError

from .method import Ceiling, Integrating, at_every_step, register_method


@dataclass(frozen=True, kw_only=True)
class Burst(Integrating):
    """Convert to burst neurons, ``s`` in {0, ..., m} spikes a step, soft reset, rate coding.

    Attributes:
        most: most spikes of one neuron in one step, ``m``.
        spread: whether a whole burst spans the range that ``threshold`` finds, so that
            ``θ = range/m`` and ``T`` steps tell ``m T`` levels apart; the sources take the range as
            ``θ`` and burst only to catch up.

    Raises:
        SpiketuneError: on fewer than one spike a step.

    Source: Park et al. 2019 (burst coding); Li & Zeng 2022, ``m = 5``; AdaFire, Wang et al. 2025.

    Example:
        >>> Burst(steps=8).most
        5
    """

    most: int = 5
    spread: bool = True

    spikes = "burst"

    @property
    def levels_told(self) -> int:
        """Spikes that a neuron can send within the range."""
        return self.steps * (self.most if self.spread else 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_every_step(self)
        if self.most < 1:
            raise SpiketuneError(f"most must be at least 1 spike a step, not {self.most}")


@register_method(Burst)
def _neuron(
    method: Burst, threshold: Tensor, floor: float | None, ceiling: Ceiling
) -> BurstNeuron | None:
    if floor != 0:
        return None  # a burst has no sign
    threshold = threshold / method.most if method.spread else threshold
    return BurstNeuron(threshold, most=method.most, initial=method.initial, ceiling=ceiling)
