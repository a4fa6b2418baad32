"""The peak of a block of known size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from spiketune.compare import memory
from spiketune.compare.memory import PeakMemory


@pytest.mark.parametrize("recorded", [True, False])
def test_growth_of_the_resident_set_is_seen_and_what_was_there_is_not(
    recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not recorded:  # as where the kernel keeps its record: a thread reads
        monkeypatch.setattr(memory, "_CLEAR", Path("/proc/nothing/clear_refs"))
    kept = torch.ones(8_000_000)  # 32 MB that were there before
    with PeakMemory(torch.device("cpu")) as peak:
        block = torch.ones(16_000_000)  # 64 MB
        time.sleep(0.05)
        del block
    if peak.megabytes is None:
        pytest.skip("no /proc/self/statm here")
    assert 55 < peak.megabytes < 80 and len(kept) == 8_000_000


def test_the_kernels_record_misses_no_short_peak() -> None:
    if not memory._forget_peak():
        pytest.skip("the kernel's record cannot be reset here")
    with PeakMemory(torch.device("cpu")) as peak:
        torch.ones(16_000_000).sum()  # freed at once
    assert peak.megabytes is not None and 55 < peak.megabytes < 80


def test_freed_memory_does_not_hide_the_next_peak() -> None:
    found = []
    for _ in range(2):
        with PeakMemory(torch.device("cpu")) as peak:
            blocks = [torch.ones(25_000) for _ in range(400)]  # 40 MB in blocks of the heap
            del blocks
        found.append(peak.megabytes)
    if found[0] is None or found[1] is None:
        pytest.skip("no /proc/self/statm here")
    assert all(30 < growth < 60 for growth in found)


def test_the_largest_of_several_blocks_counts() -> None:
    peak = PeakMemory(torch.device("cpu"))
    for megabytes in (8, 64, 16):
        between = torch.ones(25_000_000)  # 100 MB that no block sees grow
        del between
        with peak:
            block = torch.ones(megabytes * 250_000)
            time.sleep(0.02)
            del block
    if peak.megabytes is None:
        pytest.skip("no /proc/self/statm here")
    assert 55 < peak.megabytes < 80


def test_other_devices_tell_nothing() -> None:
    with PeakMemory(torch.device("meta")) as peak:
        pass
    assert peak.megabytes is None
