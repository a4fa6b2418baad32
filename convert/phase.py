"""Ternary spikes whose weight falls from step to step, in one layer after the other.

The image acts once, and every neuron sends what it lacks in spikes of weight ``±θ g_l(t)``, with
``g_l(t) = b^(-max(t - h_l, 0))``. A layer's weight begins to fall at ``h_l``, when the layers
before it have nearly settled: ``h_l`` grows evenly from 1 in the first layer to ``T - tail`` in the
last, which has ``tail`` steps left to refine its answer. Where rate coding tells ``T`` levels
apart in ``T`` steps, this tells ``b^tail``; an answer before the last steps is worth little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from torch import Tensor

from spiketune.snn import Geometric, Neuron, SpiketuneError
from spiketune.snn import Graded as GradedNeuron

from .method import Ceiling, Method, only_once, register_method
from .thresholds import Max, Threshold

FINEST = 128  # levels that the last layer can tell apart, if there are steps enough


@dataclass(frozen=True, kw_only=True)
class Phase(Method):
    """Convert to ternary neurons with falling weights; the budget is the one it is made for.

    Attributes:
        base: ``b``, by how much a spike counts less than one a step before.
        tail: steps in which the last layer refines its answer; by default enough for 128 levels,
            and at most half of all.
        encode: also put neurons in front of weights that no ReLU feeds, so that they see spikes.

    Raises:
        SpiketuneError: on a base not above 1, or a tail below 1.

    Source: weighted spikes, Kim et al. 2018; layer after layer as in FS-neurons (Stöckl & Maass
    2021), but with layers overlapping. The schedule is this project's own.

    Example:
        >>> Phase(steps=16).drive
        1
    """

    steps: int = 32
    threshold: Threshold = Max()  # noqa: RUF009
    base: float = 1.4
    tail: int | None = None
    encode: bool = False

    spikes = "ternary"

    @property
    def levels_told(self) -> int:
        """Spikes a neuron can send: the image acts once, but all steps are there to answer."""
        return self.steps

    def __post_init__(self) -> None:
        only_once(self)
        super().__post_init__()
        if not self.base > 1 or (self.tail is not None and self.tail < 1):
            raise SpiketuneError(
                f"base must be above 1 and tail at least 1, not {self.base} and {self.tail}"
            )

    def arrange(self, neurons: Sequence[Neuron]) -> None:
        """Let the weights of the layers begin to fall one after the other."""
        enough = round(log(FINEST, self.base))
        tail = min(enough, max(self.steps // 2, 1)) if self.tail is None else self.tail
        apart = max(self.steps - 1 - tail, 0) / max(len(neurons) - 1, 1)
        for place, neuron in enumerate(neurons):
            assert isinstance(neuron, GradedNeuron)
            neuron.schedule = Geometric(base=self.base, hold=1 + place * apart)


@register_method(Phase)
def _neuron(
    method: Phase, threshold: Tensor, floor: float | None, ceiling: Ceiling
) -> GradedNeuron | None:
    if floor is None and ceiling is None and not method.encode:
        return None
    return GradedNeuron(threshold, levels=1, drive=1, floor=floor, ceiling=ceiling)
