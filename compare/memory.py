"""How much memory a block of code needs on top of what was there before."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_STATM = Path("/proc/self/statm")
# Short beside one batch, long beside one reading (some 20 microseconds).
_INTERVAL = 0.005


class PeakMemory:
    """Measure the peak growth of memory inside a ``with`` block; of several, the largest growth.

    On CUDA: the allocator's own peak, exact. On the CPU of Linux: the resident set of the whole
    process, read every 5 ms by a thread, so that a peak shorter than that may be missed, and
    anything else that runs in the process at the same time is included. Elsewhere: None.

    Args:
        device: where the work is done.

    Example:
        >>> with PeakMemory(torch.device("cpu")) as peak:
        ...     block = torch.ones(2**24)
        >>> peak.megabytes is None or 50 < peak.megabytes < 100
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.megabytes: float | None = None
        self._device = device
        self._start = self._peak = 0
        self._entered = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._entered:  # once: it costs more than many a block
            gc.collect()
        self._entered = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
        elif self._device.type == "cpu" and _STATM.exists():
            _give_back_freed_memory()
            self._start = self._peak = _resident_bytes()
            self._stop.clear()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        elif self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._peak = max(self._peak, _resident_bytes())
        else:
            return
        self.megabytes = max(self.megabytes or 0.0, (self._peak - self._start) / 1e6)

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._peak = max(self._peak, _resident_bytes())


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back_freed_memory() -> None:
    """Return freed pages to the system, where glibc can.

    It keeps them otherwise, and whatever ran second would seem to need nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
