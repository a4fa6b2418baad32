"""``θ`` of least squared error for normal currents: needs their mean and deviation only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError

from .base import FromDistribution, Histogram

if TYPE_CHECKING:
    from ..calibration import Calibration

STARTS = 64  # thresholds between which the best valley of the error is looked for
HALVINGS = 36


@dataclass(frozen=True, kw_only=True)
class Gaussian(FromDistribution):
    """``θ = k(θ) θ``, the fixed point for currents ``z ~ N(μ, σ²)`` of each channel.

    ``k(θ) θ = N Σ_i E[z; z > t_i] / Σ_i (2i - 1) P(z > t_i)`` with ``t_i = (2i - 1) θ / 2N``,
    ``i = 1 .. N``: there ``E[(Q(a) - a)²]`` is stationary, ``a = relu(z)``, ``Q`` as in ``MSE``.
    With ``P`` and ``E`` written out as ``erf`` and ``exp`` this is the source's ``k``. Where a
    neuron sends signed values, the same sums over ``-z`` are added above and below.

    Iterating ``θ <- k(θ) θ`` finds a fixed point, but where ``μ`` is many ``σ`` there are several
    (each ``θ = μN/j`` puts a level on ``μ``), and with many levels it takes thousands of rounds.
    So the valley of least error is looked up first, and ``k(θ) = 1`` found in it by halving.

    A channel that is active in spite of its ``μ`` and ``σ``, which say that not one of the values
    seen would be, is no Gaussian: it takes its largest activation.

    Attributes:
        levels: ``N``; by default the step count of the network. Multi-threshold neurons with
            ``n`` sizes of spikes tell ``steps * 2**n`` apart.

    Raises:
        SpiketuneError: on fewer than one level.

    Source: Huang et al. 2025, "Differential coding for training-free ANN-to-SNN conversion".

    Example:
        >>> currents = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
        >>> round(float(Gaussian().balance(Histogram.of(currents, bins=2), steps=4)), 1)
        2.1
    """

    levels: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise SpiketuneError(f"levels must be at least 1, not {self.levels}")

    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Balance each layer on the mean and deviation of its current, in two passes."""
        found = {}
        for name, histogram in calibration.histograms().items():
            floor = calibration.places[name].neuron.floor
            signed = floor is None or floor < 0
            found[name] = self.balance(histogram, calibration.steps, signed=signed)
        return found

    def balance(self, histogram: Histogram, steps: int, *, signed: bool = False) -> Tensor:
        """Return ``θ [C]``; ``signed`` for neurons that send negative values on as well."""
        levels, top = self.levels or steps, histogram.maximum
        mean, deviation = histogram.mean.double(), histogram.deviation.double()
        # Rounding of the sums leaves a constant current a spread of its own.
        constant = deviation <= 1e-6 * mean.abs()
        spread = torch.where(constant, 1, deviation)
        found = _Normal(mean, spread, levels, signed).threshold()
        if not signed:
            expected = histogram.counts.sum(1) * _above(mean / spread)
            found = torch.where(expected < 1, top.double(), found)
        found = torch.where(constant, mean.abs(), found)
        return torch.where(top > 0, found, 0).to(top.dtype)


@dataclass(frozen=True)
class _Normal:
    """Normal currents, ``mean`` and ``deviation`` of shape ``[C]``, on a grid of levels."""

    mean: Tensor
    deviation: Tensor
    levels: int
    signed: bool

    def sums(self, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``N Σ E[z; z > t_i]`` and ``Σ (2i - 1) P(z > t_i)``, ``[C]``."""
        odd = 2 * torch.arange(self.levels, device=threshold.device, dtype=threshold.dtype) + 1
        edges = threshold.unsqueeze(1) * odd / (2 * self.levels)
        deviation = self.deviation.unsqueeze(1)
        reached, counted = torch.zeros_like(threshold), torch.zeros_like(threshold)
        for mean in [self.mean, -self.mean] if self.signed else [self.mean]:
            distance = (mean.unsqueeze(1) - edges) / deviation
            above = _above(distance)
            density = (-(distance**2) / 2).exp() / math.sqrt(2 * math.pi)
            reached += (mean.unsqueeze(1) * above + deviation * density).sum(1)
            counted += (odd * above).sum(1)
        return self.levels * reached, counted

    def error(self, threshold: Tensor) -> Tensor:
        """Return ``E[(Q(a) - a)²] - E[a²]``, ``[C]``."""
        reached, counted = self.sums(threshold)
        return threshold * (threshold * counted - 2 * reached) / self.levels**2

    def threshold(self) -> Tensor:
        """Return the threshold of least error."""
        starts = self._starts()
        errors = torch.stack([self.error(start) for start in starts])
        best = errors.argmin(0, keepdim=True)
        low = starts.gather(0, (best - 1).clamp_min(0)).squeeze(0)
        high = starts.gather(0, (best + 1).clamp_max(STARTS - 1)).squeeze(0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            reached, counted = self.sums(middle)
            # The error's slope has the sign of 1 - k: below the fixed point it falls.
            falls = middle * counted < reached
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
        return (low + high) / 2

    def _starts(self) -> Tensor:
        """Return thresholds from where nearly all is clipped to where nothing is, ``[., C]``."""
        size = self.mean.abs() if self.signed else self.mean
        # A tail that starts |μ| below zero is σ/(1 + |μ|/σ) wide.
        width = self.deviation / (1 + (-size / self.deviation).clamp_min(0))
        low, high = width / 4, 12 * self.deviation
        step = torch.linspace(0, 1, STARTS, device=size.device, dtype=size.dtype).unsqueeze(1)
        return (size - self.deviation).clamp_min(0) + low * (high / low) ** step


def _above(distance: Tensor) -> Tensor:
    """Return how likely a normal value is to lie above a bound that far below its mean."""
    above: Tensor = torch.special.erfc(-distance / math.sqrt(2)) / 2
    return above
