"""Events out of still images: the sensor makes the three saccades of N-MNIST in front of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .errors import DataError
from .events import Events, to_events

__all__ = ["SACCADE", "Saccades", "saccade_events", "saccades"]

SACCADE = 100_000  # µs, each of the three
# Where the image stands, as shares (x, y) of the amplitude: start, and the end of each saccade.
CORNERS = ((0.5, 0.5), (0.0, -0.5), (-0.5, 0.5), (0.5, 0.5))
# A pixel that goes there and back changes by whole thresholds; rounding must not hide the last.
TOLERANCE = 1e-3
CHUNK = 64  # images at once: what one step touches stays in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Saccades:
    """How the sensor moves and when its pixels fire.

    Attributes:
        amplitude: base and height of the triangle, in pixels.
        steps: how often the sensor looks during one saccade of 100 ms.
        threshold: the change of ``ln(dark + intensity)`` that makes an event.
        size: height and width of the sensor.
        dark: what a black pixel sends, white sending ``dark + 1``; small values make much of
            faint greys.
        background: intensity around the image.
        frames: how many frames the ``3 steps`` looks are added up to; None for one a look.
        binary: whether a frame says only that there were events, not how many.
        mismatch: spread of the pixels' thresholds, as a share of ``threshold``, drawn once for a
            sensor; 0 for none, and everything is deterministic.

    Raises:
        DataError: on a value out of its range.

    Example:
        >>> Saccades(steps=4).total
        12
    """

    amplitude: float = 7.0
    steps: int = 10
    threshold: float = 0.5
    size: int = 34
    dark: float = 0.1
    background: float = 0.0
    frames: int | None = None
    binary: bool = True
    mismatch: float = 0.0

    def __post_init__(self) -> None:
        checks = {
            "amplitude": (0 < self.amplitude < math.inf, "above 0"),
            "steps": (self.steps >= 1, "1 or more"),
            "threshold": (0 < self.threshold < math.inf, "above 0"),
            "size": (self.size >= 1, "1 or more"),
            "dark": (0 < self.dark < math.inf, "above 0"),
            "background": (0 <= self.background <= 1, "from 0 to 1"),
            "frames": (1 <= self.total <= 3 * self.steps, f"from 1 to {3 * self.steps}, or None"),
            "mismatch": (0 <= self.mismatch < 1, "from 0 to below 1"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise DataError(f"{name} must be {allowed}, not {getattr(self, name)!r}")

    @property
    def total(self) -> int:
        """Return the number of frames ``T``."""
        return 3 * self.steps if self.frames is None else self.frames


def saccades(
    images: Tensor,
    settings: Saccades | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Record images with an event sensor that moves along a triangle of three saccades.

    The image moves over the sensor at an even speed, by ``(-a/2, -a)``, ``(-a/2, a)`` and
    ``(a, 0)`` pixels. At each look ``k`` a pixel compares ``L_k = ln(dark + I_k)``, the intensity
    ``I_k`` interpolated between pixels, with what it remembers::

        n = trunc((L_k - M) / threshold),    M <- M + n threshold

    and sends ``n`` ON events, or ``-n`` OFF events. As the triangle closes, every pixel sends as
    many of one kind as of the other.

    Args:
        images: ``[B, 1, H, W]`` in [0, 1], set in the middle of the sensor.
        settings: see ``Saccades``.
        generator: draws the mismatch, if there is any.

    Returns:
        Frames ``[B, T, 2, size, size]``, uint8, OFF in channel 0 and ON in channel 1; counts
        above 255 stay there.

    Raises:
        DataError: The images have another shape, or values outside [0, 1].

    Source:
        Orchard, Jayawant, Cohen, Thakor 2015, "Converting static image datasets to spiking
        neuromorphic datasets using saccades" (the triangle, 100 ms a side, sensor 34 x 34).
        Reconstructed: the even speed, and the sensor, an ideal one without noise or refractory
        time; ``threshold`` and ``dark`` are set so that MNIST gives about as many events an image
        as N-MNIST has.

    Example:
        >>> bar = torch.zeros(1, 1, 28, 28)
        >>> bar[..., 4:24, 12:16] = 1
        >>> saccades(bar).shape, saccades(torch.zeros(1, 1, 28, 28)).sum().item()
        (torch.Size([1, 30, 2, 34, 34]), 0)
    """
    settings = settings or Saccades()
    _check(images)
    shape = (len(images), settings.total, 2, settings.size, settings.size)
    frames = torch.zeros(shape, dtype=torch.uint8, device=images.device)
    threshold = images.new_full(shape[-2:], settings.threshold)
    if settings.mismatch:
        spread = torch.randn(shape[-2:], generator=generator).to(images) * settings.mismatch
        # A pixel must keep a threshold; two in a thousand of a mismatch of 1/3 are cut here.
        threshold = threshold * (1 + spread).clamp(min=0.1)
    for first in range(0, len(images), CHUNK):
        some = slice(first, first + CHUNK)
        _record(images[some, 0], frames[some], threshold, settings)
    return frames


def saccade_events(
    images: Tensor,
    settings: Saccades | None = None,
    *,
    generator: torch.Generator | None = None,
) -> list[Events]:
    """Return what ``saccades`` records as one list of events an image, 300 ms long.

    The events of one look are spread evenly over its time.

    Args:
        images: ``[B, 1, H, W]`` in [0, 1].
        settings: see ``Saccades``; ``binary`` and ``frames`` do not matter here.
        generator: draws the mismatch, if there is any.

    Returns:
        Arrays with the fields ``t`` (µs), ``x``, ``y``, ``p`` (1 for ON), in the order of time.

    Raises:
        DataError: The images have another shape, or values outside [0, 1].

    Source:
        As ``saccades``.

    Example:
        >>> bar = torch.zeros(1, 1, 28, 28)
        >>> bar[..., 4:24, 12:16] = 1
        >>> (events,) = saccade_events(bar)
        >>> int(events["p"].sum()) * 2 == len(events)
        True
    """
    settings = replace(settings or Saccades(), binary=False, frames=None)
    recorded = saccades(images, settings, generator=generator).cpu()
    return [to_events(frames, 3 * SACCADE) for frames in recorded]


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise DataError(
            f"saccades needs grey images [B, 1, H, W] of floats, not {[*images.shape]} of "
            f"{images.dtype}; convert them first"
        )
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"the images run from {images.min():.3g} to {images.max():.3g}, saccades needs "
            "intensities from 0 to 1; load them with a mean of 0 and a std of 1"
        )


def _record(images: Tensor, frames: Tensor, threshold: Tensor, settings: Saccades) -> None:
    """Record ``images [B, H, W]`` into ``frames [B, T, 2, size, size]``."""
    looks, gain = 3 * settings.steps, (1 + TOLERANCE) / threshold
    most = 1 if settings.binary else 255
    reach = math.ceil(settings.amplitude / 2) + 1
    scene = _scene(images, settings, reach)
    memory = _look(scene, 0, settings, reach)
    for look in range(looks):
        change = _look(scene, look + 1, settings, reach).sub_(memory).mul_(gain).trunc_()
        memory.addcmul_(change, threshold)
        frame = frames[:, look * settings.total // looks]
        for channel, events in enumerate((change.neg(), change)):
            seen = frame[:, channel]
            seen.copy_(events.clamp_(min=0).add_(seen).clamp_(max=most))


def _scene(images: Tensor, settings: Saccades, reach: int) -> Tensor:
    """Set the images in the middle of a background that the sensor never looks beyond."""
    pads: list[int] = []
    for length in reversed(images.shape[-2:]):
        before = (settings.size - length) // 2 + reach
        pads += [before, settings.size + 2 * reach - length - before]
    return functional.pad(images, pads, value=settings.background)


def _look(scene: Tensor, look: int, settings: Saccades, reach: int) -> Tensor:
    """Return ``ln(dark + intensity)`` of each pixel, the image where it stands at this look."""
    side, share = divmod(look, settings.steps)
    start, end = CORNERS[side], CORNERS[min(side + 1, 3)]
    for axis, (a, b) in zip((-1, -2), zip(start, end, strict=True), strict=True):
        moved = settings.amplitude * (a + (b - a) * share / settings.steps)
        first = math.floor(reach - moved)
        near = scene.narrow(axis, first, settings.size)
        far = scene.narrow(axis, first + 1, settings.size)
        scene = torch.lerp(near, far, reach - moved - first)
    return scene.add_(settings.dark).log_()
