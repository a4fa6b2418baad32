"""What threshold rules work on: the network, and the distribution of a layer's activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..calibration import Calibration


@dataclass(frozen=True)
class Histogram:
    """Activations ``|a|`` of a layer, counted over the whole calibration set.

    Where a neuron sends signed values, their sizes are counted. A histogram does not depend on
    the order of the images, and its size not on their number.

    Attributes:
        counts: ``[C, bins + 1]``: first the exact zeros, then ``bins`` bins of equal width up to
            the channel's maximum, each closed above.
        maximum: ``[C]``, in ANN units.
        mean: of the current that comes in, before the activation, ``[C]``.
        deviation: its standard deviation, ``[C]``.

    Example:
        >>> Histogram.of(torch.tensor([[0.0, 1.0, 2.0]]), bins=2).counts
        tensor([[1, 1, 1]])
    """

    counts: Tensor
    maximum: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, currents: Tensor, bins: int) -> Histogram:
        """Return the histogram of ``relu(currents)``, for ``currents [C, N]``."""
        values = currents.clamp_min(0)
        mean, deviation = currents.mean(1), currents.std(1, correction=0)
        return cls.empty(values.amax(1), bins, mean, deviation).add(values)

    @classmethod
    def empty(cls, maximum: Tensor, bins: int, mean: Tensor, deviation: Tensor) -> Histogram:
        """Return a histogram without counts, up to ``maximum [C]``."""
        counts = torch.zeros(len(maximum), bins + 1, dtype=torch.long, device=maximum.device)
        return cls(counts, maximum, mean, deviation)

    def add(self, values: Tensor) -> Histogram:
        """Return the histogram with ``values [C, N]`` counted too."""
        channels, bins = self.counts.shape[0], self.counts.shape[1] - 1
        scale = torch.where(self.maximum > 0, self.maximum, 1).unsqueeze(1)
        place = (values / scale * bins).ceil().clamp(0, bins).long()
        place += torch.arange(channels, device=place.device).unsqueeze(1) * (bins + 1)
        new = torch.bincount(place.flatten(), minlength=channels * (bins + 1))
        return replace(self, counts=self.counts + new.view_as(self.counts))

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
        >>> isinstance(Max(), Threshold)
        True
    """

    @abstractmethod
    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Return ``θ [C]`` of every neuron by the name of its node.

        A channel that was never active has no threshold of its own; its entry may be zero.
        """


class FromDistribution(Threshold):
    """A rule that looks at each layer's activations by themselves.

    Example:
        >>> from spiketune.convert import Max
        >>> Max().balance(Histogram.of(torch.tensor([[0.0, 2.0]]), bins=2), steps=4)
        tensor([2.])
    """

    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Balance each layer on its histogram, two passes over the images in all."""
        return {
            name: self.balance(histogram, calibration.steps)
            for name, histogram in calibration.histograms().items()
        }

    @abstractmethod
    def balance(self, histogram: Histogram, steps: int) -> Tensor:
        """Return ``θ [C]`` for a layer whose neurons are driven for ``steps`` steps."""
