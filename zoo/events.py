"""Streams of events, and the frames a network takes: ``[T, P, H, W]``, a frame a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError

__all__ = ["EVENT", "Bins", "Events", "Sensor", "as_events", "cells", "to_events", "to_frames"]

# Time in µs, column, row, polarity (1 for ON); tonic's arrays have the same fields.
EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.int8)])
Events = NDArray[np.void]
Sensor = tuple[int, int, int]  # polarities, height, width


@dataclass(frozen=True, kw_only=True)
class Bins:
    """How a stream of events is cut into frames.

    Attributes:
        steps: ``T``, the number of frames.
        duration: microseconds that they cover from time 0 on, later events being left out; None
            for the data set's own window, and up to the last event for a single stream.
        size: height and width of a frame where a sensor's pixels are to be put together; None
            for the sensor's own.
        binary: whether a frame says only that there were events, not how many.
        ordered: whether time running backwards is refused; False counts the events in any order.

    Raises:
        DataError: on a value out of its range.

    Example:
        >>> Bins(steps=10, duration=300_000).binary
        True
    """

    steps: int = 30
    duration: float | None = None
    size: tuple[int, int] | None = None
    binary: bool = True
    ordered: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"steps must be 1 or more, not {self.steps}")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise DataError(f"duration must be above 0 µs, or None, not {self.duration}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DataError(f"size must be (height, width), each 1 or more, not {self.size}")

    def shape(self, sensor: Sensor) -> tuple[int, int, int, int]:
        """Return ``(T, P, H, W)`` of the frames.

        Raises:
            DataError: if frames are to be larger than the sensor.
        """
        height, width = self.size or sensor[1:]
        if height > sensor[1] or width > sensor[2]:
            raise DataError(
                f"frames of {height} x {width} are larger than the sensor's "
                f"{sensor[1]} x {sensor[2]}; give a smaller size"
            )
        return self.steps, sensor[0], height, width


def to_frames(events: Events | Tensor, sensor: Sensor, bins: Bins | None = None) -> Tensor:
    """Count events in time bins of equal length.

    An event ``(t, x, y, p)`` belongs to frame ``floor(t T / duration)``.

    Args:
        events: an array with the fields ``t`` (µs), ``x``, and where there are any ``y`` and
            ``p``; or numbers ``[E, 4]`` in the order t, x, y, p.
        sensor: polarities, height and width; one polarity takes all events as that one.
        bins: see ``Bins``.

    Returns:
        Frames ``[T, P, H, W]``, uint8; counts above 255 stay there.

    Raises:
        DataError: The stream is empty, its time runs backwards or starts below 0, or an event
            lies outside the sensor.

    Example:
        >>> events = torch.tensor([[0, 1, 0, 1], [10, 1, 0, 1], [90, 0, 1, 0]])
        >>> frames = to_frames(events, (2, 2, 2), Bins(steps=2, duration=100, binary=False))
        >>> frames[:, 1, 0, 1].tolist(), frames[1].flatten().tolist()
        ([2, 0], [0, 0, 1, 0, 0, 0, 0, 0])
    """
    bins = bins or Bins()
    found, shape = cells(events, sensor, bins), bins.shape(sensor)
    counts = np.bincount(found, minlength=math.prod(shape)).clip(max=255)
    return torch.from_numpy(counts.astype(np.uint8)).view(shape)


def to_events(frames: Tensor, duration: float) -> Events:
    """Return the events that frames hold, those of a cell spread evenly over its time.

    Args:
        frames: counts ``[T, P, H, W]``.
        duration: microseconds that they cover.

    Returns:
        An array with the fields ``t``, ``x``, ``y``, ``p`` in the order of time.

    Raises:
        DataError: on frames of another shape, or too short a duration.

    Example:
        >>> frames = torch.zeros(2, 2, 3, 3)
        >>> frames[1, 0, 2, 1] = 2
        >>> to_events(frames, 1000).tolist()
        [(625, 1, 2, 0), (875, 1, 2, 0)]
    """
    if frames.ndim != 4:
        raise DataError(f"frames must be [T, P, H, W], not {[*frames.shape]}")
    if not duration >= len(frames):
        raise DataError(f"duration must be at least 1 µs a frame, not {duration}")
    places = frames.nonzero()
    counts = frames[tuple(places.T)].long()
    order = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    step, p, y, x = places.repeat_interleave(counts, 0).T
    share = (order + 0.5) / counts.repeat_interleave(counts)
    events = np.empty(len(step), EVENT)
    events["t"] = ((step + share.double()) * (duration / len(frames))).long().numpy()
    events["x"], events["y"], events["p"] = x.numpy(), y.numpy(), p.numpy()
    return events[np.argsort(events["t"], kind="stable")]


def as_events(events: Events | Tensor | NDArray[Any], where: str = "the stream") -> Events:
    """Return events as one kind of array, whatever they came as.

    Args:
        events: see ``to_frames``.
        where: what to call the stream in an error.

    Returns:
        An array of ``EVENT``.

    Raises:
        DataError: They are of another form, or a time is no number.

    Example:
        >>> as_events(torch.tensor([[5, 1, 2, 0]])).tolist()
        [(5, 1, 2, 0)]
    """
    given = events.detach().cpu().numpy() if isinstance(events, Tensor) else np.asarray(events)
    if given.dtype == EVENT and given.ndim == 1:
        return given
    names = given.dtype.names or ()
    if names and {"t", "x"} <= {*names}:
        columns = {name: given[name] for name in EVENT.names or () if name in names}
    elif not names and given.ndim == 2 and given.shape[1] == 4:
        columns = dict(zip(EVENT.names or (), given.T, strict=True))
    else:
        raise DataError(
            f"{where} must have the fields t, x, y and p or be [events, 4] numbers, not "
            f"{[*given.shape]} of {given.dtype}"
        )
    found = np.zeros(len(given), EVENT)
    for name, column in columns.items():
        values = np.asarray(column, np.float64)
        # A float too large for its field would come back as some other place in the sensor.
        if not (np.abs(values) < np.iinfo(EVENT[name]).max).all():
            raise DataError(
                f"{where} has a value of {name} that is no number in range; fetch it again"
            )
        found[name] = np.floor(values)
    return found


def cells(
    events: Events | Tensor | NDArray[Any], sensor: Sensor, bins: Bins, where: str = "the stream"
) -> NDArray[np.int64]:
    """Return the place of each event in flattened frames ``[T, P, H, W]``, in rising order.

    Args:
        events: see ``to_frames``.
        sensor: polarities, height and width.
        bins: see ``Bins``; each place once if they are binary.
        where: what to call the stream in an error.

    Returns:
        Places from 0 to ``T P H W - 1``.

    Raises:
        DataError: see ``to_frames``.

    Example:
        >>> cells(torch.tensor([[9, 1, 0, 0]]), (2, 2, 2), Bins(steps=2, duration=10)).tolist()
        [9]
    """
    found = as_events(events, where)
    steps, _, height, width = bins.shape(sensor)
    _check(found, sensor, bins, where)
    t = found["t"]
    duration = (
        float(t[-1] + 1 if bins.ordered else t.max() + 1)
        if bins.duration is None
        else bins.duration
    )
    found = found[t < duration]
    if not len(found):
        raise DataError(
            f"{where} has no event in its first {duration:g} µs, the earliest comes at "
            f"{t.min()} µs; give a longer duration"
        )
    step: NDArray[np.int64] = np.floor(found["t"] * steps / duration).astype(np.int64)
    step = step.clip(max=steps - 1)  # a duration that is no whole number may round up
    p = found["p"].astype(np.int64) if sensor[0] > 1 else 0
    y = found["y"].astype(np.int64) * height // sensor[1]
    x = found["x"].astype(np.int64) * width // sensor[2]
    places: NDArray[np.int64] = ((step * sensor[0] + p) * height + y) * width + x
    return np.unique(places) if bins.binary else np.sort(places)


def _check(events: Events, sensor: Sensor, bins: Bins, where: str) -> None:
    if not len(events):
        raise DataError(f"{where} holds no events; leave it out, or fetch it again")
    t = events["t"]
    back = np.flatnonzero(t[1:] < t[:-1])
    if bins.ordered and len(back):
        first = back[0] + 1
        raise DataError(
            f"{where} runs backwards in time: event {first} comes at {t[first]} µs after one at "
            f"{t[first - 1]} µs; fetch it again, or give Bins(ordered=False)"
        )
    if t.min() < 0:
        raise DataError(f"{where} has an event at {t.min()} µs; count the time from 0 on")
    limits = {"p": sensor[0] if sensor[0] > 1 else 2, "y": sensor[1], "x": sensor[2]}
    for name, limit in limits.items():
        outside = np.flatnonzero((events[name] < 0) | (events[name] >= limit))
        if len(outside):
            first = outside[0]
            raise DataError(
                f"{where} has event {first} at {name}={events[name][first]}, outside the sensor's "
                f"0 to {limit - 1}; name the right sensor, or fetch it again"
            )
