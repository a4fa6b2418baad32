"""What the pairs of a layer cost: loops over pairs, sample by sample, against products of scans.

    python scripts/bench_spike_trains.py

A layer of 400 neurons that 400 others reach, 400 steps, as the programs of HM2-BP and ST-RSBP run
it: they follow ``p``, ``q`` and ``e`` of each pair through all steps, one sample at a time, and
contract ``e`` with the errors then. Ways to the same two gradients, of the weights and of the
counts below:

* ``pair loop``: that, pair by pair in plain Python; clocked on some pairs, the rest reckoned;
* ``array loop``: that, one step of all pairs at once in NumPy, batch 1;
* ``array loop, p once``: the same with ``p`` kept for each neuron and not for each pair;
* ``products``: ``∂L/∂W`` and ``δ`` as products of matrices over ``[T B]`` rows, which is what
  training does between two layers, nothing of ``[B, N, N]`` in memory;
* ``pairs``: all ``e`` of a sample by one product, as a recurrent layer needs them;
* ``spikes``: all ``e`` by the spikes alone (``efficacies_by_spikes``), fewest operations.

Every way is checked against the array loop before it is clocked. Operations are additions,
multiplications and comparisons, scans over single neurons and the contraction included; times are
the best of ``--repeats``, of all ways with glibc told to keep memory, as every script that trains
does: large tensors are then not asked of the system anew each time. The table goes to
``docs/results/systems/spike_trains.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from experiments import keep_memory
from jsonargparse import auto_cli
from numpy.typing import NDArray
from torch import Tensor

from spiketune.finetune.spike_trains import (
    credit_over_time,
    efficacies,
    efficacies_by_spikes,
    pre_trace,
    reach,
)

Array = NDArray[np.float32]
TAU_M, TAU_S, PERIOD = 64.0, 8.0, 2
LEAK = 1 - 1 / TAU_M
GOAL = 20  # times fewer operations, and times faster, than a loop at batch 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        neurons: of the layer, and as many that reach it.
        steps: of a run.
        batch: samples at once.
        spikes: of a neuron, on average.
        pairs: that the plain loop is clocked on.
        repeats: the best of so many is taken.
        threads: of torch.
        results: file for the table.
    """

    neurons: int = 400
    steps: int = 400
    batch: int = 64
    spikes: float = 15.0
    pairs: int = 500
    repeats: int = 3
    threads: int = 1
    results: Path = Path("docs/results/systems/spike_trains.md")


class Samples(NamedTuple):
    """Trains ``[T, B, N]`` before and after, errors ``[B, N]``, weights ``[N, N]``."""

    before: Tensor
    after: Tensor
    error: Tensor
    weight: Tensor

    def first(self) -> Samples:
        """Return the first sample by itself."""
        return Samples(self.before[:, :1], self.after[:, :1], self.error[:1], self.weight)


Gradients = tuple[Tensor, Tensor]


def draw(settings: Settings) -> Samples:
    """Return random trains that keep their rest, silent in step 0, errors and weights."""
    make = torch.Generator().manual_seed(0)
    shape = settings.batch, settings.neurons
    chance = settings.spikes / (settings.steps - PERIOD * settings.spikes)
    trains = []
    for _ in range(2):
        rest, spikes = torch.zeros(shape), torch.zeros(settings.steps, *shape)
        for step in spikes[1:]:
            step.copy_((torch.rand(shape, generator=make) < chance) & (rest == 0))
            rest = torch.where(step > 0, float(PERIOD), (rest - 1).clamp_min(0))
        trains.append(spikes)
    error = torch.randn(shape, generator=make)
    return Samples(*trains, error, torch.randn(shape[1], shape[1], generator=make))


def pair(before: list[float], after: list[float]) -> float:
    """Return ``e`` of one pair, step by step as the programs do."""
    p = q = e = 0.0
    rest = 0
    for sends, fires in zip(before, after[1:], strict=False):
        p += sends - p / TAU_S
        q += p / TAU_S - q / TAU_M
        if rest > 0:
            q, rest = 0.0, rest - 1
        if fires:
            e, q, rest = e + q, 0.0, PERIOD
    return e


def array_loop(given: Samples, *, once: bool) -> Gradients:
    """Return the gradients of the first sample by a loop over steps in NumPy."""
    before, after = given.before[:, 0].numpy(), given.after[:, 0].numpy()
    error, weight = given.error[0].numpy(), given.weight.numpy()
    q, e = np.zeros_like(weight), np.zeros_like(weight)
    p: Array = np.zeros(weight.shape[1:] if once else weight.shape, weight.dtype)
    rest = np.zeros(len(weight), int)
    for t in range(1, len(before)):
        p += before[t - 1] - p / TAU_S
        q += p / TAU_S - q / TAU_M
        q[rest > 0] = 0.0
        fires = after[t] > 0
        e[fires] += q[fires]
        q[fires] = 0.0
        rest = np.where(fires, PERIOD, np.maximum(rest - 1, 0))
    back = error @ (weight * e) / np.maximum(before.sum(0), 1)
    return torch.from_numpy(error[:, None] * e), torch.from_numpy(back[None])


def trace_of(given: Samples) -> Tensor:
    """Return ``p/τ_s``."""
    return pre_trace(given.before, TAU_S) / TAU_S


def products(given: Samples) -> Gradients:
    """Return the gradients by products over all steps and samples."""
    none = torch.zeros_like(given.error)
    credit = credit_over_time(given.after, given.error, none, LEAK, period=PERIOD)
    trace, rows = trace_of(given), credit.flatten(0, 1)
    back = (rows @ given.weight).view_as(trace)
    counts = given.before.sum(0).clamp_min(1)
    return rows.T @ trace.flatten(0, 1), (back * trace).sum(0) / counts


def pairs(given: Samples) -> Gradients:
    """Return the gradients by all pairs, each sample's by a product."""
    return _contracted(given, efficacies(reach(given.after, LEAK, PERIOD), trace_of(given)))


def by_spikes(given: Samples) -> Gradients:
    """Return the gradients by all pairs, from the spikes alone."""
    return _contracted(given, efficacies_by_spikes(given.after, trace_of(given), LEAK, PERIOD))


def _contracted(given: Samples, found: Tensor) -> Gradients:
    counts = given.before.sum(0).clamp_min(1)
    back = (given.error.unsqueeze(1) @ (given.weight * found)).squeeze(1) / counts
    return torch.einsum("bi,bij->ij", given.error, found), back


WAYS: dict[str, Callable[[Samples], Gradients]] = {
    "products": products,
    "pairs": pairs,
    "spikes": by_spikes,
}


def operations(steps: int, neurons: int, spikes: float) -> dict[str, float]:
    """Return what each way takes a pair and sample; what is done a neuron is shared by its pairs.

    ``p`` takes 3 a step, ``q`` 4, two comparisons (rest, spike), an addition to ``e`` a spike; the
    contraction with errors and weights 4 a pair. A product takes 2 a step; ``R`` a comparison, a
    multiplication and ``PERIOD`` comparisons; a gathered row and its factor 2, two rows a spike.
    """
    passed, each = 3 * steps / neurons, (2 + PERIOD) * steps / neurons  # p and R, once a neuron
    return {
        "pair loop": 9 * steps + spikes + 4,
        "array loop": 9 * steps + spikes + 4,
        "array loop, p once": 6 * steps + spikes + 4 + passed,
        "products": 4 * steps + passed + each + 3 * steps / neurons,
        "pairs": 2 * steps + 4 + passed + each,
        "spikes": 4 * spikes + 4 + passed + (2 * steps + 4 * spikes) / neurons,
    }


def best(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds that the fastest of some runs took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def check(given: Samples) -> None:
    """See that all ways find the same for one sample, and the batched ones for all.

    Raises:
        AssertionError: naming the way that does not.
    """
    one, all_pairs = given.first(), pairs(given)
    expected = array_loop(one, once=False)
    found = {name: way(one) for name, way in WAYS.items()}
    found["array loop, p once"] = array_loop(one, once=True)
    sends, fires = one.before[:, 0].T.tolist(), one.after[:, 0].T.tolist()
    e, row = pair(sends[1], fires[0]) * float(one.error[0, 0]), float(expected[0][0, 1])
    assert abs(e - row) < 1e-3 * max(1.0, abs(row)), "pair loop"
    for name, gradients in found.items():
        torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-3, msg=name)
    for name, way in WAYS.items():
        torch.testing.assert_close(way(given), all_pairs, rtol=1e-3, atol=1e-2, msg=name)


def measure(given: Samples, settings: Settings) -> dict[str, float]:
    """Return the milliseconds a sample of each way."""
    one = given.first()
    sends, fires = one.before[:, 0].T.tolist(), one.after[:, 0].T.tolist()
    chosen = [(k % len(sends), k // len(sends) % len(fires)) for k in range(settings.pairs)]
    by_pairs = best(lambda: [pair(sends[j], fires[i]) for j, i in chosen], settings.repeats)
    found = {"pair loop": by_pairs * settings.neurons**2 / len(chosen)}
    for name, once in (("array loop", False), ("array loop, p once", True)):
        found[name] = best(partial(array_loop, one, once=once), settings.repeats)
    for name, way in WAYS.items():
        found[name] = best(partial(way, given), settings.repeats) / settings.batch
    return {name: 1e3 * seconds for name, seconds in found.items()}


def table(counts: dict[str, float], times: dict[str, float], settings: Settings) -> str:
    """Return the table in Markdown, with what it was measured on."""
    loop, clock = counts["array loop"], times["array loop"]
    lines = [
        "# What the pairs of a layer cost",
        "",
        f"`python scripts/bench_spike_trains.py --neurons {settings.neurons} --steps "
        f"{settings.steps} --batch {settings.batch} --spikes {settings.spikes:g}`: "
        f"{settings.neurons} neurons that as many reach, both gradients, {settings.threads} "
        f"thread(s) of a CPU. Loops run one sample at a time, the others {settings.batch} at once; "
        f"`pair loop` is reckoned from {settings.pairs} pairs. glibc keeps memory "
        f"(`experiments.keep_memory`), as where scripts train. Goal: {GOAL} times fewer operations "
        f"and {GOAL} times faster than `array loop`.",
        "",
        "| way | operations a pair | times fewer | ms a sample | times faster |",
        "|---|---|---|---|---|",
    ]
    for name, count in counts.items():
        ms = times[name]
        lines.append(f"| {name} | {count:.0f} | {loop / count:.1f} | {ms:.2f} | {clock / ms:.1f} |")
    return "\n".join(lines) + "\n"


def main(settings: Settings) -> None:
    """Check, measure and write the table."""
    torch.set_num_threads(settings.threads)
    given = draw(settings)
    check(given)
    spikes = float(given.after.sum() / given.error.numel())
    counts = operations(settings.steps, settings.neurons, spikes)
    text = table(counts, measure(given, settings), settings)
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text(text)
    print(text)


if __name__ == "__main__":
    keep_memory()
    main(auto_cli(Settings, as_positional=False))
