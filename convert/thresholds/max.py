"""``θ = max a``: the largest activation seen; nothing is clipped, everything fires slowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .base import FromDistribution, Histogram

if TYPE_CHECKING:
    from ..calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Max(FromDistribution):
    """``θ_c = max a_c`` over the calibration images.

    Source: Diehl et al. 2015, "data-based normalization".

    Example:
        >>> Max()
        Max()
    """

    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Return the maximum of each channel, in one pass: no histogram is needed."""
        return calibration.maxima()

    def balance(self, histogram: Histogram, steps: int) -> Tensor:
        """Return the maximum of each channel."""
        return histogram.maximum
