"""Sound to spikes: a mel filter bank, and a spike wherever a band's energy crosses a level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .audio import Samples
from .errors import DataError
from .events import EVENT, Bins, Events, Sensor, to_events

__all__ = ["Hearing", "crossings", "hear", "mel_energies", "mel_filters", "resampled"]


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """How sound becomes spikes.

    Attributes:
        sample_rate: samples a second; sound of another rate is resampled.
        window: milliseconds that one spectrum looks at.
        hop: milliseconds from one spectrum to the next.
        bands: number of mel bands.
        low: lower edge of the lowest band, Hz.
        high: upper edge of the highest band, Hz.
        depth: decibels below the loudest cell of a recording that count as nothing.
        levels: how many levels a band's energy may cross.
        bins: how the spikes are cut into frames; ``size`` stays None.

    Raises:
        DataError: on a value out of its range.

    Example:
        >>> Hearing(bands=40, levels=8).sensor
        (2, 8, 40)
    """

    sample_rate: int = 12_500
    window: float = 25.0
    hop: float = 10.0
    bands: int = 32
    low: float = 100.0
    high: float = 6000.0
    depth: float = 50.0
    levels: int = 15
    bins: Bins = Bins(steps=100, duration=1_000_000)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        checks = {
            "sample_rate": (self.sample_rate >= 1, "1 or more"),
            "window": (self.window_samples >= 2, "at least two samples long"),
            "hop": (self.hop_samples >= 1, "at least a sample long"),
            "bands": (self.bands >= 1, "1 or more"),
            "low": (0 <= self.low < self.high, "at least 0 and below high"),
            "high": (self.high <= self.sample_rate / 2, "at most half of sample_rate"),
            "depth": (0 < self.depth < math.inf, "above 0"),
            "levels": (self.levels >= 1, "1 or more"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise DataError(f"{name} must be {allowed}, not {getattr(self, name)!r}")

    @property
    def window_samples(self) -> int:
        """Return the length of the window in samples."""
        return round(self.window * self.sample_rate / 1000)

    @property
    def hop_samples(self) -> int:
        """Return the samples from one spectrum to the next."""
        return round(self.hop * self.sample_rate / 1000)

    @property
    def fft(self) -> int:
        """Return the length of the Fourier transform: the next power of two."""
        return int(2 ** math.ceil(math.log2(self.window_samples)))

    @property
    def sensor(self) -> Sensor:
        """Return what ``hear``'s events lie on: offset and onset, levels, bands."""
        return 2, self.levels, self.bands


def mel_filters(hearing: Hearing) -> Tensor:
    """Return triangular filters, their corners evenly spaced on the mel scale.

    ``mel(f) = 2595 log10(1 + f / 700)``; filter ``b`` rises from corner ``b`` to 1 at corner
    ``b + 1`` and falls to corner ``b + 2``.

    Args:
        hearing: see ``Hearing``.

    Returns:
        ``[bands, fft // 2 + 1]``.

    Raises:
        DataError: A band is so narrow that no frequency of the spectrum lies in it.

    Source:
        The mel scale as O'Shaughnessy 1987 gives it; Davis and Mermelstein 1980 (the triangles).

    Example:
        >>> filters = mel_filters(Hearing(bands=4))
        >>> filters.shape, (filters.argmax(1) * 12_500 / 512).long().tolist()
        (torch.Size([4, 257]), [537, 1171, 2172, 3686])
    """
    ends = torch.tensor([hearing.low, hearing.high], dtype=torch.float64)
    low, high = (2595 * torch.log10(1 + ends / 700)).tolist()
    mel = torch.linspace(low, high, hearing.bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.arange(hearing.fft // 2 + 1, dtype=torch.float64)
    frequency = bins * hearing.sample_rate / hearing.fft
    left, middle, right = (corners[k : k + hearing.bands, None] for k in range(3))
    rising, falling = (frequency - left) / (middle - left), (right - frequency) / (right - middle)
    filters = torch.minimum(rising, falling).clamp(min=0).float()
    if not filters.any(1).all():
        raise DataError(
            f"{hearing.bands} bands from {hearing.low:g} to {hearing.high:g} Hz are too narrow for "
            f"a spectrum of {hearing.fft} samples; take fewer bands or a longer window"
        )
    return filters


def mel_energies(samples: Samples, hearing: Hearing) -> Tensor:
    """Return the energy of each band over time, from 0 (``depth`` below the loudest) to 1.

    ``E = filters |STFT|^2`` with a Hann window; ``e = 1 + 10 log10(E / max E) / depth``, at
    least 0.

    Args:
        samples: at ``hearing.sample_rate``.
        hearing: see ``Hearing``.

    Returns:
        ``[frames, bands]``.

    Raises:
        DataError: The sound is silent throughout.

    Source:
        Davis and Mermelstein 1980; the logarithm scaled to [0, 1] within a recording as Gütig and
        Sompolinsky 2009 do it (reconstructed, so is ``depth``).

    Example:
        >>> tone = np.sin(np.arange(12_500) * 2 * np.pi * 1269 / 12_500).astype(np.float32)
        >>> energies = mel_energies(tone, Hearing(bands=4))
        >>> energies.shape, energies[50].argmax().item()
        (torch.Size([101, 4]), 1)
    """
    spectrum = torch.stft(
        torch.from_numpy(samples), hearing.fft, hearing.hop_samples, hearing.window_samples,
        torch.hann_window(hearing.window_samples), pad_mode="constant", return_complex=True,
    )  # fmt: skip
    energies = (mel_filters(hearing) @ spectrum.abs().square()).T
    loudest = energies.max()
    if not loudest > 0:
        raise DataError("the sound is silent throughout; leave it out")
    return (1 + 10 * (energies / loudest).log10() / hearing.depth).clamp(min=0)


def crossings(energies: Tensor, levels: int) -> Tensor:
    """Return where energies cross evenly spaced levels, as spikes.

    Level ``l`` of ``L`` lies at ``(l + 1) / (L + 1)``. An onset spike tells that the energy has
    reached it, an offset spike that it has left it again; before the sound all is 0.

    Args:
        energies: ``[T, bands]`` in [0, 1].
        levels: ``L``.

    Returns:
        ``[T, 2, L, bands]``, uint8, offsets in channel 0 and onsets in channel 1; flattened they
        are ``[T, channels]``.

    Source:
        Gütig and Sompolinsky 2009, "Time-warp-invariant neuronal processing" (onset and offset
        neurons of 32 bands). Reconstructed: the levels, evenly spaced.

    Example:
        >>> crossings(torch.tensor([[0.2], [0.6], [0.1]]), 1).flatten(1).tolist()
        [[0, 0], [0, 1], [1, 0]]
    """
    heights = torch.arange(1, levels + 1).to(energies) / (levels + 1)
    above = energies[:, None] >= heights[:, None]
    before = torch.cat((torch.zeros_like(above[:1]), above[:-1]))
    return torch.stack((before & ~above, above & ~before), 1).byte()


def hear(
    samples: Samples, rate: int, hearing: Hearing | None = None, where: str = "the sound"
) -> Events:
    """Turn sound into events, at most one a cell and hop.

    Args:
        samples: in [-1, 1].
        rate: samples a second.
        hearing: see ``Hearing``.
        where: what to call the sound in an error.

    Returns:
        Events with the time in µs, the band for x, the level for y, and p = 1 for an onset;
        ``to_frames(events, hearing.sensor, hearing.bins)`` makes frames of them.

    Raises:
        DataError: The sound is silent, or its rate too low for the highest band.

    Source:
        As ``mel_energies`` and ``crossings``.

    Example:
        >>> tone = np.sin(np.arange(8000) * 2 * np.pi * 1000 / 16_000).astype(np.float32)
        >>> events = hear(tone, 16_000)
        >>> bool((events["t"][-1] > 480_000) & (events["p"][0] == 1))
        True
    """
    hearing = hearing or Hearing()
    try:
        energies = mel_energies(resampled(samples, rate, hearing), hearing)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    spikes = crossings(energies, hearing.levels)
    events = to_events(spikes, len(spikes) * hearing.hop_samples * 1e6 / hearing.sample_rate)
    return events.astype(EVENT)


def resampled(samples: Samples, rate: int, hearing: Hearing) -> Samples:
    """Return sound at ``hearing.sample_rate``, through a polyphase filter where it differs.

    Args:
        samples: in [-1, 1].
        rate: their samples a second.
        hearing: see ``Hearing``.

    Returns:
        The samples.

    Raises:
        DataError: The sound cannot hold the highest band.

    Example:
        >>> len(resampled(np.zeros(2000, np.float32), 20_000, Hearing()))
        1250
    """
    if rate < 2 * hearing.high:
        raise DataError(
            f"sound of {rate} samples a second holds nothing above {rate / 2:g} Hz; give "
            f"Hearing(high={rate // 2}, sample_rate={rate}) or less"
        )
    if rate == hearing.sample_rate:
        return samples
    from scipy.signal import resample_poly

    shared = math.gcd(rate, hearing.sample_rate)
    made = resample_poly(samples, hearing.sample_rate // shared, rate // shared)
    return np.asarray(made, np.float32)
