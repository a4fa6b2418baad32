"""Where the recordings of each event data set lie in its folder, and what they are of."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .data_sets import Split
from .errors import DataError
from .event_files import EXTRA, gesture_trials, open_h5, read_aedat, read_gesture, read_nmnist
from .events import Events, as_events

__all__ = ["RECORDED", "Recording", "fetch_events"]

FOLDERS: dict[Split, tuple[str, str]] = {
    "train": ("Train", "ibmGestureTrain"),
    "test": ("Test", "ibmGestureTest"),
}
# tonic's class of each, which is also the folder that tonic puts it into.
TONIC = {
    "nmnist": "NMNIST",
    "dvs_gesture": "DVSGesture",
    "shd": "SHD",
    "ntidigits": "NTIDIGITS18",
}
ISOLATED = re.compile(r"(?:.*-)?([zo1-9])[ab]?", re.IGNORECASE)
DIGITS = "z123456789o"


class Recording(NamedTuple):
    """One sample, not read yet.

    Attributes:
        where: what to call it in an error.
        label: its class.
        read: returns its events.

    Example:
        >>> Recording("a.bin", 3, lambda: np.zeros(1)).label
        3
    """

    where: str
    label: int
    read: Callable[[], Events]


Found = list[Recording] | None
Finder = Callable[[Path, Split], Found]


def fetch_events(target: Path, name: str, split: Split) -> None:
    """Let tonic download a data set.

    Args:
        target: The folder to put it into.
        name: The data set.
        split: ``train`` or ``test``.

    Raises:
        OSError: tonic is not installed, or cannot fetch it.

    Example:
        >>> fetch_events(Path("here"), "nmnist", "test")  # doctest: +SKIP
    """
    try:
        from tonic import datasets
    except ModuleNotFoundError as error:
        raise OSError(f"tonic, which fetches it, is not installed, {EXTRA}") from error
    getattr(datasets, TONIC[name])(str(target), train=split == "train")


def _nmnist(place: Path, split: Split) -> Found:
    bases = (place / FOLDERS[split][0], place / TONIC["nmnist"] / FOLDERS[split][0])
    files = next((found for base in bases if (found := sorted(base.glob("[0-9]/*.bin")))), [])
    return [
        Recording(str(file), int(file.parent.name), functools.partial(read_nmnist, file))
        for file in files
    ] or None


def _gesture(place: Path, split: Split) -> Found:
    for base in (place, place / TONIC["dvs_gesture"], place / "DvsGesture"):
        listed = base / f"trials_to_{split}.txt"
        if listed.is_file():
            return _trials(listed)
        files = sorted((base / FOLDERS[split][1]).glob("user*/*.npy"))
        if files:
            return [
                Recording(str(file), int(file.stem), functools.partial(read_gesture, file))
                for file in files
                if file.stem.isdecimal()
            ]
    return None


def _trials(listed: Path) -> list[Recording]:
    """Return the trials of the sessions that a list names."""
    # A session holds a dozen trials, which are read one after another.
    session = functools.lru_cache(maxsize=1)(read_aedat)

    def trial(path: Path, first: int, last: int) -> Events:
        events = session(path)
        events = events[(events["t"] >= first) & (events["t"] < last)]
        events["t"] -= first
        return events

    return [
        Recording(f"{path} from {first} µs on", label, functools.partial(trial, path, first, last))
        for path in (listed.parent / name for name in listed.read_text().split())
        for label, first, last in gesture_trials(path)
    ]


def _shd(place: Path, split: Split) -> Found:
    path = _file(place, TONIC["shd"], f"shd_{split}.h5")
    if path is None:
        return None
    file = open_h5(path)
    keys = ("labels", "spikes/times", "spikes/units")
    labels, times, units = (_of(file, key, path) for key in keys)
    return [
        Recording(
            f"{path}, sample {index}", int(label), functools.partial(_heard, times, units, index)
        )
        for index, label in enumerate(labels[:])
    ]


def _ntidigits(place: Path, split: Split) -> Found:
    path = _file(place, TONIC["ntidigits"], "n-tidigits.hdf5")
    if path is None:
        return None
    file = open_h5(path)
    keys = (f"{split}_labels", f"{split}_timestamps", f"{split}_addresses")
    names, times, units = (_of(file, key, path) for key in keys)
    return [
        Recording(
            f"{path}, {name}",
            DIGITS.index(match[1].lower()),
            functools.partial(_heard, times, units, name),
        )
        for name in (bytes(name).decode() for name in names[:])
        if (match := ISOLATED.fullmatch(name))
    ]


def _file(place: Path, folder: str, name: str) -> Path | None:
    return next((one for one in (place / name, place / folder / name) if one.is_file()), None)


def _of(file: Any, key: str, path: Path) -> Any:
    if key in file:
        return file[key]
    raise DataError(f"{path} has no {key!r}, name the file as it is published, or fetch it again")


def _heard(times: Any, units: Any, which: int | str) -> Events:
    """Read the spikes of one sound: seconds and channels."""
    where = f"{times.file.filename}, {which}"
    try:
        seconds, channels = np.asarray(times[which], np.float64), np.asarray(units[which])
    except (OSError, KeyError) as error:
        raise DataError(f"{where} is damaged or cut short ({error}); fetch it again") from error
    if seconds.shape != channels.shape:
        raise DataError(
            f"{where} has {len(seconds)} times and {len(channels)} channels; fetch it again"
        )
    zeros = np.zeros_like(seconds)
    return as_events(np.stack((np.rint(seconds * 1e6), channels, zeros, zeros), 1), where)


RECORDED: dict[str, Finder] = {
    "nmnist": _nmnist,
    "dvs_gesture": _gesture,
    "shd": _shd,
    "ntidigits": _ntidigits,
}
