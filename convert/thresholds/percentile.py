"""``θ`` at a percentile of the activations: a few outliers are clipped, the rest fires faster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError

from .base import FromDistribution, Histogram


@dataclass(frozen=True, kw_only=True)
class Percentile(FromDistribution):
    """``θ_c`` such that ``percent`` of the activations of the channel, zeros too, lie below.

    Attributes:
        percent: in (0, 100]; 100 is ``Max``.

    Source: Rueckauer et al. 2017, section 2.2.2 (99.0 to 99.999 there).

    Example:
        >>> Percentile(percent=50).balance(Histogram.of(torch.arange(101.0)[None], 100), steps=4)
        tensor([50.])
    """

    percent: float = 99.9

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise SpiketuneError(f"percent must lie in (0, 100], not {self.percent}")

    def balance(self, histogram: Histogram, steps: int) -> Tensor:
        """Return the upper edge of the bin in which the percentile falls, for each channel."""
        bins = histogram.counts.shape[1] - 1
        cumulative = histogram.counts.cumsum(1).double()
        rank = cumulative[:, -1:] * self.percent / 100
        place = torch.searchsorted(cumulative, rank).squeeze(1).clamp_max(bins)
        # A percentile among the zeros would silence the channel: its lowest bin instead.
        return histogram.maximum * place.clamp_min(1) / bins
