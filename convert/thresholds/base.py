"""What every threshold rule works on: the distribution of one layer's activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Histogram:
    """Activations ``a >= 0`` of a layer, counted over the whole calibration set.

    A histogram does not depend on the order of the images, and its size not on their number.

    Attributes:
        counts: ``[C, bins + 1]``: first the exact zeros, then ``bins`` bins of equal width up to
            the channel's maximum, each closed above.
        maximum: ``[C]``, in ANN units.

    Example:
        >>> Histogram.of(torch.tensor([[0.0, 1.0, 2.0]]), bins=2).counts
        tensor([[1, 1, 1]])
    """

    counts: Tensor
    maximum: Tensor

    @classmethod
    def of(cls, values: Tensor, bins: int) -> Histogram:
        """Return the histogram of ``values [C, N]``."""
        empty = cls.empty(values.amax(1).clamp_min(0), bins)
        return empty.add(values)

    @classmethod
    def empty(cls, maximum: Tensor, bins: int) -> Histogram:
        """Return a histogram without counts, up to ``maximum [C]``."""
        counts = torch.zeros(len(maximum), bins + 1, dtype=torch.long, device=maximum.device)
        return cls(counts, maximum)

    def add(self, values: Tensor) -> Histogram:
        """Return the histogram with ``values [C, N]`` counted too."""
        channels, bins = self.counts.shape[0], self.counts.shape[1] - 1
        scale = torch.where(self.maximum > 0, self.maximum, 1).unsqueeze(1)
        place = (values / scale * bins).ceil().clamp(0, bins).long()
        place += torch.arange(channels, device=place.device).unsqueeze(1) * (bins + 1)
        new = torch.bincount(place.flatten(), minlength=channels * (bins + 1))
        return Histogram(self.counts + new.view_as(self.counts), self.maximum)

    @property
    def values(self) -> Tensor:
        """The value that stands for each bin: zero, then the bins' middles, ``[C, bins + 1]``."""
        bins = self.counts.shape[1] - 1
        middles = (torch.arange(bins, device=self.counts.device) + 0.5) / bins
        return torch.cat([middles.new_zeros(1), middles]) * self.maximum.unsqueeze(1)


class Threshold(ABC):
    """A rule that balances thresholds; subclasses are frozen dataclasses, one a file.

    Example:
        >>> from spiketune.convert import Max
        >>> Max().balance(Histogram.of(torch.tensor([[0.0, 2.0]]), bins=2), steps=4)
        tensor([2.])
    """

    @abstractmethod
    def balance(self, histogram: Histogram, steps: int) -> Tensor:
        """Return ``θ [C]`` for a layer whose neurons are driven for ``steps`` steps.

        A channel that was never active has no threshold of its own; its entry may be zero.
        """
