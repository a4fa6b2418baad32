"""Shared by the benchmarks: run things in turn, measure in fresh processes, write the tables.

Each row is timed once a round, the floor first, so that a machine that gets slower or faster
changes all rows alike; a ratio is taken within a round, and its median and range are shown. On the
CPU what counts is the time of the process, which others that run beside it change least; on CUDA
it is the clock's, after the device has finished.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

from spiketune.compare.memory import PeakMemory

T = TypeVar("T")
Runs = Mapping[str, Callable[[], object]]
# glibc gives large buffers back as they are freed and faults them in again at the next step; with
# these it keeps them.
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
PEERS = ("spikingjelly", "snntorch", "sinabs", "norse")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What may be changed of every benchmark from the command line.

    Attributes:
        only: rows to measure, by any part of their names; all by default. The floor always is.
        rounds: how often each row is timed.
        threads: of torch.
        device: cpu or cuda.
        kept: measure again with a glibc that keeps freed memory.
    """

    only: list[str] = field(default_factory=list)
    rounds: int = 7
    threads: int = 1
    device: str = "cpu"
    kept: bool = True


def allocators(bench: Bench) -> list[bool]:
    """Return whether freed memory is kept, for each time that everything is measured."""
    return [False, True] if bench.kept and bench.device == "cpu" else [False]


def chosen(names: Sequence[str], bench: Bench) -> list[str]:
    """Return the names to measure, the floor's first."""
    wanted = [name for name in names if any(part in name for part in bench.only)]
    return list(dict.fromkeys([names[0], *(wanted if bench.only else names)]))


class Seconds(NamedTuple):
    """What one run took."""

    cpu: float
    wall: float


class Summary(NamedTuple):
    """A row's figures over all rounds: milliseconds, and the ratio to the floor with its range."""

    ms: float
    wall: float
    ratio: float
    low: float
    high: float

    def cells(self) -> list[str]:
        """Return the row's cells."""
        spread = f"{self.low:.2f} to {self.high:.2f}"
        return [_short(self.ms), _short(self.wall), f"{self.ratio:.2f}", spread]


# Heads of a summary's cells.
TIMES = ("ms", "on the clock", "ratio", "range")


def _short(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.0f}"


def in_turn(runs: Runs, rounds: int, device: str) -> dict[str, list[Seconds]]:
    """Run everything once a round, after two rounds that do not count."""
    taken: dict[str, list[Seconds]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            seconds = timed(run, device)
            if number > 1:
                taken[name].append(seconds)
    return taken


def timed(run: Callable[[], object], device: str) -> Seconds:
    """Return what one call takes."""
    wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    wait(device)
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def wait(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def summaries(taken: Mapping[str, Sequence[Seconds]], device: str) -> dict[str, Summary]:
    """Return each row's median time and its ratio to the first row, round by round."""
    clock = "wall" if device == "cuda" else "cpu"
    times = {name: [getattr(one, clock) for one in found] for name, found in taken.items()}
    floor = next(iter(times.values()))
    found = {}
    for name, row in times.items():
        ratios = [one / base for one, base in zip(row, floor, strict=True)]
        wall = median(one.wall for one in taken[name])
        found[name] = Summary(
            1e3 * median(row), 1e3 * wall, median(ratios), min(ratios), max(ratios)
        )
    return found


def peak(run: Callable[[], object], device: str, times: int = 3) -> float:
    """Return by how many megabytes memory grows at its peak while something runs."""
    with PeakMemory(torch.device(device)) as memory:
        for _ in range(times):
            run()
    return memory.megabytes or float("nan")


def fresh(kept: bool, threads: int, function: Callable[..., T], *args: Any) -> T:
    """Call a function of a module in a process of its own, glibc keeping freed memory or not."""
    spawn = multiprocessing.get_context("spawn")
    given = {"OMP_NUM_THREADS": str(threads), **(KEPT if kept else dict.fromkeys(KEPT))}
    with _environment(given), spawn.Pool(1) as pool:  # read by the process as it starts
        found: T = pool.apply(_alone, (threads, function, args))
    return found


def _alone(threads: int, function: Callable[..., T], args: Sequence[Any]) -> T:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return function(*args)


@contextmanager
def _environment(given: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in given}
    os.environ.update({name: value for name, value in given.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def allocator(kept: bool) -> str:
    """Say what a process's allocator was told."""
    variables = " ".join(f"{name}={value}" for name, value in KEPT.items())
    return f"with `{variables}`" if kept else "glibc as it comes (no `MALLOC_*` variables)"


def about(bench: Bench) -> str:
    """Return the lines that say where and how a table was measured."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", *PEERS))
    counted = "time on the clock" if bench.device == "cuda" else "CPU time of the process"
    return (
        f"`{' '.join(['python', *sys.argv])}`\n\n"
        f"{device_name(bench.device)}, {bench.threads} thread(s); {versions}. Milliseconds are "
        f"medians of {bench.rounds} rounds of {counted}, rows in turn; a ratio is to the first row "
        "in the same round, with its smallest and largest value.\n"
    )


def device_name(device: str) -> str:
    """Return the name of a GPU, or the model and number of the processor's cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else 'cpu'}, {os.cpu_count()} cores"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write(path: Path, parts: Sequence[str]) -> None:
    """Print the parts of a page and write them to a file."""
    text = "\n".join(parts)
    print(text, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
