"""The time that work takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")


def timed(work: Callable[[], Found], place: torch.device) -> tuple[Found, float]:
    """Return what some work gives, and the seconds of the clock until the device is done with it.

    Example:
        >>> found, seconds = timed(lambda: 1 + 1, torch.device("cpu"))
        >>> found, seconds < 1
        (2, True)
    """
    _wait(place)
    started = time.perf_counter()
    found = work()
    _wait(place)
    return found, time.perf_counter() - started


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
