"""Signed neurons with spikes of several sizes: the most accurate answer a step.

With differential coding the image and the biases act once, and from then on every neuron sends
what has changed: each spike leaves a third of what is missing at most, so that after ``T`` steps of
``m`` spikes a value is off by ``3^-mT``, until the smallest spike is too large to help.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from torch import Tensor

from spiketune.snn import Constant, Schedule, SpiketuneError
from spiketune.snn import Graded as GradedNeuron
from spiketune.snn.network import check_steps

from .method import Ceiling, Method, only_once, register_method
from .thresholds import Max, Threshold

Coding = Literal["differential", "rate"]


@dataclass(frozen=True, kw_only=True)
class Graded(Method):
    """Convert to signed multi-threshold neurons, spikes of sizes ``θ, θ/2, ..., θ/2^(n-1)``.

    Attributes:
        levels: sizes of spikes, ``n``; with their signs, ``2n + 1`` values in a message.
        spikes_per_step: most spikes of one neuron in one step; each is counted.
        headroom: the largest spike is so many times what ``threshold`` says. Nothing is clipped
            without it, but what lies above the largest spike takes many spikes; with it, images
            that excite a channel more than those of calibration do cost no more. Made for ``Max``;
            rules that choose a range for so many levels, such as ``MSE``, want 1.
        least: no channel's threshold is below so much of the layer's largest. A channel that
            hardly stirs on the images of calibration would else answer a livelier image in spikes
            of next to nothing, one after the other.
        coding: ``differential``, where image and biases act once; or ``rate``.
        schedule: how much a spike counts at which step, with differential coding.

    Raises:
        SpiketuneError: on a value out of its range, or settings that exclude each other.

    Source: Huang et al. 2024 (ECMT), Huang et al. 2025 (DCGS).

    Example:
        >>> Graded(steps=4).drive
        1
    """

    steps: int = 4
    threshold: Threshold = Max()  # noqa: RUF009
    levels: int = 15
    spikes_per_step: int = 2
    headroom: float = 4.0
    least: float = 1 / 64
    coding: Coding = "differential"
    schedule: Schedule = Constant()  # noqa: RUF009

    spikes = "graded"

    @property
    def levels_told(self) -> int:
        """Spikes a neuron can send: the image acts once, but all steps are there to answer."""
        return self.steps

    def __post_init__(self) -> None:
        if self.coding not in get_args(Coding):
            raise SpiketuneError(f"coding must be 'differential' or 'rate', not {self.coding!r}")
        if self.coding == "differential":
            only_once(self)
        elif self.schedule != Constant():
            raise SpiketuneError(
                "a schedule weighs the steps of differential coding; with coding='rate' every "
                "step counts the same, so leave it out"
            )
        if not 0 <= self.least <= 1:
            raise SpiketuneError(f"least must lie in [0, 1], not {self.least}")
        super().__post_init__()
        check_steps(self.levels, "levels")
        check_steps(self.spikes_per_step, "spikes_per_step")
        if not 0 < self.headroom < inf:
            raise SpiketuneError(f"headroom must be above 0 and finite, not {self.headroom}")


@register_method(Graded)
def _neuron(
    method: Graded, threshold: Tensor, floor: float | None, ceiling: Ceiling
) -> GradedNeuron:
    return GradedNeuron(
        method.headroom * threshold.clamp_min(method.least * threshold.max()),
        levels=method.levels,
        spikes=method.spikes_per_step,
        drive=method.drive,
        schedule=method.schedule,
        floor=floor,
        ceiling=ceiling,
    )
