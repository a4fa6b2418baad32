"""Measure the peak memory of a training step for each rule and number of steps.

    python scripts/bench_memory.py

The network is the residual one of 14 weighted layers of ``train_anns.py`` with untrained weights,
converted to binary neurons, BatchNorms folded, so that every rule can train it. Each row and budget
runs in a process of its own: one update on two images, to load and set up what is needed once, then
``--updates`` updates under ``PeakMemory``. Weights and gradients are in it, optimizer states are
not. On the CPU the processes give memory back as soon as it is freed, which takes time, so that
what is free but still held does not count. The table goes to ``--results``.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch.nn.functional import cross_entropy
from train_anns import residual14

import spiketune as st
from spiketune.compare.memory import PeakMemory
from spiketune.finetune import Batch, Rule, Task
from spiketune.finetune.rules import prepare


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        results: file for the table.
        steps: budgets to measure.
        images: in a batch, 28 pixels, one channel.
        updates: measured ones.
        device: cpu or cuda.
        threads: of torch.
    """

    results: Path = Path("docs/results/training_memory.md")
    steps: list[int] = field(default_factory=lambda: [4, 32])
    images: int = 16
    updates: int = 2
    device: str = "cpu"
    threads: int = 1


RULES: dict[str, Callable[[int], Rule]] = {
    "SurrogateBPTT": lambda steps: st.SurrogateBPTT(),
    "SurrogateBPTT, spikes as bytes": lambda steps: st.SurrogateBPTT(pack_spikes=True),
    "SurrogateBPTT, 4 blocks": lambda steps: st.SurrogateBPTT(recompute_blocks=4),
    "SurrogateBPTT, 4 blocks, spikes as bytes": lambda steps: st.SurrogateBPTT(
        recompute_blocks=4, pack_spikes=True
    ),
    "SurrogateBPTT, stretches of √T": lambda steps: st.SurrogateBPTT(
        recompute_steps=round(steps**0.5)
    ),
    "SurrogateBPTT, 4 blocks, stretches of √T": lambda steps: st.SurrogateBPTT(
        recompute_blocks=4, recompute_steps=round(steps**0.5)
    ),
    "STDB": lambda steps: st.STDB(),
    "STDB, spikes as bytes": lambda steps: st.STDB(pack_spikes=True),
    "DIET": lambda steps: st.DIET(),
    "DIET, spikes as bytes": lambda steps: st.DIET(pack_spikes=True),
    "NA": lambda steps: st.NA(),
    "NA, spikes as bytes": lambda steps: st.NA(pack_spikes=True),
    "SLTT": lambda steps: st.SLTT(),
    "SLTT, k = 2": lambda steps: st.SLTT(k=2),
    "OTTT": lambda steps: st.OTTT(),
}


def measure(name: str, steps: int, settings: Settings) -> float:
    """Train a few updates and return by how many megabytes memory grew at its peak."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    device = torch.device(settings.device)
    images, labels = torch.rand(settings.images, 1, 28, 28), torch.arange(settings.images) % 10
    snn = st.to_snn(residual14().eval(), images, st.Binary()).to(device)
    learn = prepare(
        snn,
        RULES[name](steps),
        Task(steps=steps, criterion=lambda out, batch: cross_entropy(out.mean(0), batch.labels)),
    )
    images, labels = images.to(device), labels.to(device)
    learn(Batch(images[:2], labels[:2]))
    snn.zero_grad()
    with PeakMemory(device) as peak:
        for _ in range(settings.updates):
            learn(Batch(images, labels))
            snn.zero_grad()
    return peak.megabytes or float("nan")


def main(settings: Settings) -> None:
    """Measure all rows and write the table."""
    # Read by the processes as they start: blocks of this size are given back when freed.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    spawn = multiprocessing.get_context("spawn")
    first, last = min(settings.steps), max(settings.steps)
    heads = " | ".join(f"MB at T={steps}" for steps in settings.steps)
    rows = [f"| rule | {heads} | T={last} / T={first} |", "|---" * (len(settings.steps) + 2) + "|"]
    for name in RULES:
        found = {}
        for steps in settings.steps:
            with spawn.Pool(1) as pool:
                found[steps] = pool.apply(measure, (name, steps, settings))
        cells = " | ".join(f"{megabytes:.0f}" for megabytes in found.values())
        rows.append(f"| {name} | {cells} | {found[last] / found[first]:.2f} |")
        print(rows[-1], flush=True)
    about = (
        f"Peak growth of memory during an update of {settings.images} images on one "
        f"{settings.device} device, {settings.threads} threads, torch {torch.__version__}.\n\n"
    )
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text(about + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
