"""``θ`` of least squared error between the activation and what ``T`` spikes can say of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError

from .base import FromDistribution, Histogram

GRID = 95  # candidates max * (1 - 0.01 k), k = 0 .. 94, as in the source


@dataclass(frozen=True, kw_only=True)
class MSE(FromDistribution):
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
        tails = _Tails.of(histogram)
        best = torch.full_like(histogram.maximum, torch.inf, dtype=torch.float64)
        threshold = histogram.maximum.clone()
        for k in range(GRID):
            share = 1 - 0.01 * k
            error = tails.squared_error(share, self.levels or steps)
            better = error < best
            best = torch.where(better, error, best)
            threshold = torch.where(better, histogram.maximum * share, threshold)
        return threshold


@dataclass(frozen=True)
class _Tails:
    """For each bin, how many activations lie in it or above, ``[C, bins + 1]``, and their sum.

    In units of the channel's maximum, so that every channel has the same candidates and levels.
    """

    counts: Tensor
    sums: Tensor

    @classmethod
    def of(cls, histogram: Histogram) -> _Tails:
        counts = histogram.counts[:, 1:].double()  # exact zeros are coded as zero, without error
        bins = counts.shape[1]
        values = (torch.arange(bins, device=counts.device, dtype=torch.float64) + 0.5) / bins
        return cls(*(_from_above(part) for part in (counts, counts * values)))

    def squared_error(self, share: float, levels: int) -> Tensor:
        """Return ``Σ (Q(a) - a)²`` of each channel but for ``Σ a²``, for ``θ = share max``.

        ``Q(a) = q Σ_i 1[a >= t_i]`` with ``t_i = (i - 1/2) q``, so ``Σ a Q = q Σ_i S(t_i)`` and
        ``Σ Q² = q² Σ_i (2i - 1) N(t_i)`` for the tails ``N`` and ``S`` of counts and sums.
        """
        bins = self.counts.shape[1] - 1
        quantum = share / levels
        rank = torch.arange(1, levels + 1, device=self.counts.device, dtype=torch.float64)
        place = ((rank - 0.5) * quantum * bins - 0.5).ceil().clamp(0, bins).long()
        above, summed = self.counts[:, place], self.sums[:, place]
        return quantum**2 * (above * (2 * rank - 1)).sum(1) - 2 * quantum * summed.sum(1)


def _from_above(values: Tensor) -> Tensor:
    """Return the sums from each bin to the last, and a zero for what lies above all."""
    sums = values.flip(1).cumsum(1).flip(1)
    return torch.cat([sums, torch.zeros_like(sums[:, :1])], 1)
