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
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# Short beside one batch, long beside one reading (some 20 microseconds).
_INTERVAL = 0.005


class PeakMemory:
    """Measure the peak growth of memory inside a ``with`` block; of several, the largest growth.

    On CUDA: the allocator's own peak, exact. On the CPU of Linux: the resident set of the whole
    process, with anything else that runs in it at the same time, and the kernel's own record of its
    peak, which starts anew with every block; where that may not be, the set is read every 5 ms by a
    thread, which may miss a shorter peak. Elsewhere: None.

    What the process keeps of the memory that one block freed is not seen to grow in the next:
    let no later block need much more than the first.

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
        self._entered = self._recorded = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._entered:  # once, as what follows: it costs as much as a small batch
            gc.collect(1)  # older garbage seldom goes by itself, and all would cost ten times that
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
        elif self._device.type == "cpu" and _STATM.exists():
            if not self._entered:
                _give_back_freed_memory()
            self._start = self._peak = _resident_bytes()
            self._recorded = _forget_peak()
            if not self._recorded:
                self._stop.clear()
                self._thread = threading.Thread(target=self._sample, daemon=True)
                self._thread.start()
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        elif self._recorded:
            self._peak = max(_peak_bytes(), _resident_bytes())
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


def _forget_peak() -> bool:
    """Let the kernel record the peak of the resident set from now on; say whether it does."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return 0 < _peak_bytes() < 1.01 * _resident_bytes()  # some systems take it for nothing


def _peak_bytes() -> int:
    """Return the peak of the resident set as the kernel has recorded it, 0 where it does not."""
    lines = _STATUS.read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else 0


def _give_back_freed_memory() -> None:
    """Return freed pages to the system, where glibc can.

    It keeps them otherwise, and whatever ran second would seem to need nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
