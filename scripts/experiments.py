"""What the scripts of single experiments share: data moved at random, a row an epoch, resuming.

An experiment trains one network by one rule and adds a row to ``docs/results/systems/NAME.csv``
after every epoch: stop it when you like, what is done is kept, and the same command goes on from
there, with the number of epochs that it began with. On CPUs glibc hands large tensors back to the
system and asks for them anew; ``start`` begins the script again with ``MALLOC_*`` set, which makes
training several times faster.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional

import spiketune as st
from spiketune.finetune import Epoch

COLUMNS = ("epoch", "seconds", "train_loss", "test_accuracy", "device", "seed")
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
Pair = tuple[Tensor, Tensor]
S = TypeVar("S", bound="Experiment")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment lets one change from the command line.

    Attributes:
        epochs: passes over the training images.
        device: where.
        threads: of torch.
        batch: images at once.
        limit: training images, for a trial; all by default.
        seed: of weights, order and augmentation.
        data: folder with the data; by default the usual places.
        work: folder for checkpoints.
        results: folder for the tables.
    """

    epochs: int = 12
    device: str = "cpu"
    threads: int = 1
    batch: int = 64
    limit: int | None = None
    seed: int = 0
    data: str | None = None
    work: Path = Path("runs/systems")
    results: Path = Path("docs/results/systems")


@dataclass(frozen=True, kw_only=True)
class Moves:
    """How training images are moved at random.

    Attributes:
        shift: at most so many pixels each way.
        turn: at most so many degrees each way.
        flip: mirror every other one, left to right.
    """

    shift: int = 0
    turn: float = 0.0
    flip: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Move each image ``[B, C, H, W]`` by itself; what comes in is as the darkest pixel."""
        count, size, black = len(images), images.shape[-1], images.min()
        angle = (2 * torch.rand(count) - 1) * math.radians(self.turn)
        by = torch.randint(-self.shift, self.shift + 1, (2, count)) * (2 / size)
        mirror = 1.0 - 2 * (torch.rand(count) < 0.5) * self.flip
        cos, sin = angle.cos(), angle.sin()
        along = (cos * by[0] - sin * by[1], sin * by[0] + cos * by[1])
        rows = [cos * mirror, -sin, along[0], sin * mirror, cos, along[1]]
        matrix = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return functional.grid_sample(images - black, grid, align_corners=False) + black


class Moved:
    """Batches of training images in a new order each time, moved at random.

    Args:
        images: ``[N, C, H, W]``.
        labels: ``[N]``.
        batch: images at once.
        change: what is done with each batch of images.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch: int, change: Callable[[Tensor], Tensor]
    ) -> None:
        self.images, self.labels, self.batch, self.change = images, labels, batch, change
        self.dataset = range(len(images))

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.images) / self.batch)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Start a pass."""
        for kept in torch.randperm(len(self.images)).split(self.batch):
            yield self.change(self.images[kept]), self.labels[kept]


def images_of(name: str, settings: Experiment, cfg: Any = None) -> tuple[Pair, Pair]:
    """Return training and test images with their labels, scaled as ``cfg`` says."""
    train, test = (
        st.load_data(name, split, settings.data, limit=limit, cfg=cfg).tensors
        for split, limit in (("train", settings.limit), ("test", None))
    )
    return train, test


def batches(images: Tensor, labels: Tensor, size: int = 500) -> list[Pair]:
    """Return batches in their order."""
    return list(zip(images.split(size), labels.split(size), strict=True))


def train(
    name: str,
    snn: st.SpikingNetwork,
    rule: st.Rule,
    loader: Any,
    *,
    test: Any,
    training: st.Training,
    settings: Experiment,
) -> st.SpikingNetwork:
    """Train by a rule, a row an epoch, and return the trained network, kept in the work folder."""
    name = name if settings.limit is None else f"{name}_{settings.limit}"
    checkpoint = settings.work / f"{name}.checkpoint"
    table = settings.results / f"{name}.csv"
    for folder in (settings.work, settings.results):
        folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        _write(table, "w", COLUMNS)
    where = torch.cuda.get_device_name() if "cuda" in settings.device else settings.device

    def row(done: Epoch) -> None:
        seconds, loss = f"{done.seconds:.1f}", f"{done.loss:.5f}"
        _write(table, "a", (done.epoch, seconds, loss, done.validation, where, settings.seed))
        print(f"{name} epoch {done.epoch}: {loss}, {done.validation:.2%}, {seconds} s", flush=True)

    st.tune(
        snn, loader, rule, steps=snn.steps, epochs=settings.epochs, training=training,
        device=settings.device, precision="float32", validate=test, checkpoint=checkpoint,
        resume=checkpoint.exists(), seed=settings.seed, on_epoch=row,
    )  # fmt: skip
    st.save(snn, settings.work / f"{name}.safetensors")
    return snn


def start(main: Callable[[S], None], settings: type[S]) -> None:
    """Run a script's ``main`` with the settings of its command line, glibc told to keep memory."""
    keep_memory()
    given = auto_cli(settings, as_positional=False)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    main(given)


def keep_memory() -> None:
    """Begin the script again with glibc told to keep memory, unless it was told so."""
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**KEEP_MEMORY, **os.environ})


def _write(path: Path, mode: str, row: Sequence[object]) -> None:
    with path.open(mode, newline="") as file:
        csv.writer(file).writerow(row)
