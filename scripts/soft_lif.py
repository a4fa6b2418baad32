"""Soft LIF on MNIST: 32C5-P2-64C5-P2-256-10 trained as rates, deployed as LIF neurons.

    python scripts/soft_lif.py

Trained in plain torch with ``st.SoftLIF`` and noise on its rates, converted with ``SpikingLIF`` and
compared over all budgets in steps of 1 ms, from membranes at 0 and at 0.7. After every epoch a row
with the accuracy of the rates is added to ``docs/results/systems/soft_lif.csv``: stop the run when
you like, the same command goes on from there. The table of budgets goes to the folder ``soft_lif``
beside it.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from experiments import COLUMNS, Experiment, Moved, Moves, Pair, batches, images_of, start
from torch import nn
from torch.nn.functional import cross_entropy

import spiketune as st


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        noise: deviation of the noise on the rates in training, in Hz.
        rate: learning rate at the start; it falls as a cosine.
        steps: largest budget of the table, in steps of 1 ms.
        images: test images of the table; all by default.
    """

    noise: float = 10.0
    rate: float = 3e-3
    steps: int = 150
    images: int | None = None


def network(noise: float) -> nn.Sequential:
    """Return the untrained network; biases of 1 let neurons fire, which do from 1 on."""

    def lif() -> nn.Module:
        return st.SoftLIF(noise=noise)

    net = nn.Sequential(
        nn.Conv2d(1, 32, 5), lif(), nn.AvgPool2d(2), nn.Conv2d(32, 64, 5), lif(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(1024, 256), lif(), nn.Linear(256, 10),
    )  # fmt: skip
    for layer, behind in pairwise(net):
        if isinstance(behind, st.SoftLIF):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.ones_(layer.bias)
    return net


def accuracy(net: nn.Module, test: Pair, device: str) -> float:
    """Return the share of test images that the rates tell, in evaluation mode."""
    net.eval()
    with torch.no_grad():
        hits = sum(int((net(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in batches(*test))
    net.train()
    return hits / len(test[1])


def train(net: nn.Module, sets: tuple[Pair, Pair], settings: Settings, name: str) -> None:
    """Train with Adam, a row an epoch; an epoch depends on its number and the seed alone."""
    kept, table = settings.work / f"{name}.checkpoint", settings.results / f"{name}.csv"
    loader = Moved(*sets[0], settings.batch, Moves(shift=2, turn=10.0))
    optimizer = torch.optim.Adam(net.parameters(), settings.rate)
    done, total = 0, settings.epochs * len(loader)
    if kept.exists():
        done, weights, moments = torch.load(kept, weights_only=True)
        net.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    else:
        row(table, "w", COLUMNS)
    for epoch in range(done, settings.epochs):
        torch.manual_seed(1000 * settings.seed + epoch)
        began, losses = time.perf_counter(), 0.0
        for update, (x, y) in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * (1 + math.cos(math.pi * update / total)) / 2
            loss = cross_entropy(net(x.to(settings.device)), y.to(settings.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() / len(loader)
        seconds = time.perf_counter() - began
        found = accuracy(net, sets[1], settings.device)
        where = torch.cuda.get_device_name() if "cuda" in settings.device else settings.device
        row(table, "a", (epoch + 1, f"{seconds:.1f}", f"{losses:.5f}", found, where, settings.seed))
        print(f"{name} epoch {epoch + 1}: {losses:.5f}, {found:.2%}, {seconds:.1f} s", flush=True)
        torch.save((epoch + 1, net.state_dict(), optimizer.state_dict()), kept)


def row(path: Path, mode: str, values: object) -> None:
    """Write one row."""
    with path.open(mode, newline="") as file:
        csv.writer(file).writerow(values)


def main(settings: Settings) -> None:
    """Train, convert, compare."""
    name = "soft_lif" if settings.limit is None else f"soft_lif_{settings.limit}"
    results = settings.results / name
    for folder in (settings.work, results):
        folder.mkdir(parents=True, exist_ok=True)
    sets = images_of("mnist", settings)
    net = network(settings.noise).to(settings.device)
    train(net, sets, settings, name)
    models: dict[str, nn.Module] = {"rates": net.eval()}
    for begun in (0.0, 0.7):
        method = st.SpikingLIF(steps=settings.steps, initial=begun)
        models[f"spikes from {begun:g}"] = st.to_snn(net, sets[0][0].to(settings.device), method)
    shown = batches(*(part[: settings.images] for part in sets[1]), size=100)
    table = st.sweep(models, shown, settings.steps)
    print(table)
    folder = table.save(settings.work / name)
    (results / "table.md").write_text(table.markdown())
    for file in ("table.csv", "curves.png"):
        shutil.copy2(folder / file, results / file)


if __name__ == "__main__":
    start(main, Settings)
