"""Load what changes over time: recorded events, and saccades over the image sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from .colour import Request
from .data_sets import DataInfo, data_info
from .errors import DataError
from .event_frames import EventFrames
from .events import Bins, Sensor, cells
from .grey import idx_images
from .places import find_or_fetch, places
from .recordings import RECORDED, Recording, fetch_events
from .saccades import CHUNK, Saccades, saccades

__all__ = ["SACCADED", "binned", "event_set", "own_settings", "saccaded"]

SACCADED = {"mnist_saccades": "mnist", "fashion_mnist_saccades": "fashion-mnist"}
SettingsT = TypeVar("SettingsT")
Keep = Callable[[int], Sequence[int]]


def event_set(request: Request, keep: Keep) -> EventFrames:
    """Load N-MNIST, DVS Gesture, SHD or N-TIDIGITS from files.

    Args:
        request: What was asked for; ``frames`` may be ``Bins``.
        keep: Which of so many samples to keep.

    Returns:
        The frames with their labels.

    Raises:
        DataError: The files are nowhere, damaged, or need a package that is not installed.

    Example:
        >>> data = event_set(Request(name="nmnist", split="test"), range)  # doctest: +SKIP
    """
    bins = own_settings(request, Bins)

    def find(place: Path) -> list[Recording] | None:
        return RECORDED[request.name](place, request.split)

    fetch = functools.partial(fetch_events, name=request.name, split=request.split)
    looked = places(request.name, request.root)
    found = find_or_fetch(request.name, looked, find, fetch if request.download else None)
    return binned(request, [found[index] for index in keep(len(found))], bins)


def binned(
    request: Request,
    found: Sequence[Recording],
    bins: Bins | None = None,
    sensor: Sensor | None = None,
) -> EventFrames:
    """Read recordings and cut them into frames.

    Args:
        request: What was asked for.
        found: The recordings.
        bins: See ``Bins``; None for what the network takes, or what is usual for the data set.
        sensor: Polarities, height and width; None for the data set's.

    Returns:
        The frames with their labels.

    Raises:
        DataError: A recording is damaged, or the network takes other frames.

    Example:
        >>> from spiketune.zoo.events import as_events
        >>> heard = Recording("a", 2, lambda: as_events(np.array([[5, 3, 4, 1]])))
        >>> request = Request(name="nmnist", split="test")
        >>> binned(request, [heard], Bins(steps=2))[0][0].nonzero()
        tensor([[0, 1, 4, 3]])
    """
    info = data_info(request.name)
    if bins is None:
        steps, height, width = _wanted(request, info)
        bins = Bins(steps=steps, size=(height, width))
    if bins.duration is None:
        bins = replace(bins, duration=info.duration)
    sensor = sensor or info.input_size
    shape = bins.shape(sensor)
    _require_fit(request, shape)
    for one in found:
        if not 0 <= one.label < info.num_classes:
            raise DataError(
                f"{one.where} is of class {one.label}, {info.name} has 0 to "
                f"{info.num_classes - 1}; fetch it again"
            )
    where = (cells(one.read(), sensor, bins, one.where) for one in found)
    return EventFrames(where, [one.label for one in found], shape, info.classes)


def saccaded(request: Request, keep: Keep) -> EventFrames:
    """Load MNIST or Fashion-MNIST as events of the three saccades.

    Args:
        request: What was asked for; ``frames`` may be ``Saccades``.
        keep: Which of so many samples to keep.

    Returns:
        The frames with their labels.

    Raises:
        DataError: The images are nowhere, or damaged, or the network takes other frames.

    Example:
        >>> data = saccaded(Request(name="mnist_saccades", split="test"), range)  # doctest: +SKIP
    """
    info, name = data_info(request.name), SACCADED[request.name]
    settings = own_settings(request, Saccades) or _saccades(request, info)
    shape = (settings.total, 2, settings.size, settings.size)
    _require_fit(request, shape)
    images, labels = idx_images(name, request.split, request.root, request.download)
    kept = [*keep(len(images))]
    found: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
    images = images[kept]
    for first in range(0, len(images), CHUNK):
        frames = saccades(images[first : first + CHUNK], settings).flatten(1).numpy()
        rows, where = frames.nonzero()
        ends = np.bincount(rows, minlength=len(frames)).cumsum()
        for row, places_of in zip(frames, np.split(where, ends[:-1]), strict=True):
            found.append(places_of.repeat(row[places_of]).astype(np.int32))
    return EventFrames(found, labels[kept].tolist(), shape, info.classes)


def own_settings(request: Request, kind: type[SettingsT]) -> SettingsT | None:
    """Return the request's settings of the frames, if they are of the right kind.

    Args:
        request: What was asked for.
        kind: ``Bins``, ``Saccades`` or ``Hearing``.

    Returns:
        The settings, None if there are none.

    Raises:
        DataError: They are of another kind.

    Example:
        >>> own_settings(Request(name="nmnist", split="test", frames=Bins(steps=4)), Bins).steps
        4
    """
    if request.frames is None or isinstance(request.frames, kind):
        return request.frames
    raise DataError(
        f"{request.name} takes frames={kind.__name__}(...), "
        f"not {type(request.frames).__name__}(...)"
    )


def _wanted(request: Request, info: DataInfo) -> tuple[int, int, int]:
    """Return the number of frames, their height and width: the network's or the usual ones."""
    size = (request.cfg or {}).get("input_size")
    if isinstance(size, list | tuple) and len(size) == 4:
        return int(size[0]), int(size[2]), int(size[3])
    return info.frames, info.input_size[1], info.input_size[2]


def _require_fit(request: Request, shape: tuple[int, int, int, int]) -> None:
    size = (request.cfg or {}).get("input_size", shape)
    if not isinstance(size, list | tuple) or tuple(size) != shape:
        raise DataError(
            f"the network takes inputs of {size!r}, {request.name} gives frames of {shape}; build "
            f"it for {shape[1:]} and call st.add_frames(snn, {shape[0]}), or give other frames="
        )


def _saccades(request: Request, info: DataInfo) -> Saccades:
    frames, height, _ = _wanted(request, info)
    return Saccades(frames=frames, steps=max(Saccades.steps, -(-frames // 3)), size=height)
