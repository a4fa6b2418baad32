"""``θ`` of least squared error between the activation and what ``T`` spikes can say of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError

from .base import Histogram, Threshold

GRID = 95  # candidates max * (1 - 0.01 k), k = 0 .. 94, as in the source


@dataclass(frozen=True, kw_only=True)
class MSE(Threshold):
    """``θ_c = argmin_θ E[(Q(a) - a)²]``, ``Q(a) = θ/L clip(round(L a / θ), 0, L)``.

    Rounding, where the source floors, goes with a membrane that starts at ``θ/2``.

    Attributes:
        levels: ``L``; by default the step count of the network.

    Source: Li et al. 2021, "A free lunch from ANN", section 4.

    Example:
        >>> evenly = Histogram.of(torch.linspace(0, 1, 1001)[None], bins=1000)
        >>> float(MSE().balance(evenly, steps=2)) > 0.8
        True
    """

    levels: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise SpiketuneError(f"levels must be at least 1, not {self.levels}")

    def balance(self, histogram: Histogram, steps: int) -> Tensor:
        """Return the best of the candidates for each channel."""
        levels = self.levels or steps
        best = torch.full_like(histogram.maximum, torch.inf)
        threshold = histogram.maximum.clone()
        for k in range(GRID):
            candidate = histogram.maximum * (1 - 0.01 * k)
            error = _squared_error(histogram, candidate, levels)
            better = error < best
            best = torch.where(better, error, best)
            threshold = torch.where(better, candidate, threshold)
        return threshold


def _squared_error(histogram: Histogram, threshold: Tensor, levels: int) -> Tensor:
    quantum = torch.where(threshold > 0, threshold, 1).unsqueeze(1) / levels
    values = histogram.values
    # floor(x + 1/2), not round-half-even: the neuron fires at exactly the threshold.
    coded = (values / quantum + 0.5).floor().clamp(0, levels) * quantum
    return ((coded - values) ** 2 * histogram.counts).sum(1)
