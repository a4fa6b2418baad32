"""NA on MNIST: the paper's net 15C5-P2-40C5-P2-300-10 at T = 5, and the same by a surrogate.

    python scripts/na_mnist.py --rule na
    python scripts/na_mnist.py --rule surrogate

After every epoch a row is added to ``docs/results/na/{rule}.csv``: stop the run when you like, what
is done is kept, and the same command goes on from there. The rate of an epoch does not depend on
``--epochs``, but a run is resumed with the number it began with.

As in Yang, Zhang & Li 2021: leaky neurons with a time constant of 5 steps and a hard reset,
synapses of 2 steps, neurons for outputs, whose filtered spikes are pulled to those of a neuron that
always fires or never; AdamW at 5e-4, times 0.985 an epoch; shifts of up to 4 pixels, turns of up to
15 degrees. On CPUs glibc hands large tensors back to the system and asks for them anew; the script
starts itself again with ``MALLOC_*`` set, which makes it several times faster.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.finetune import Batch, Criterion, Epoch, Loss, Scene, register_loss
from spiketune.snn import Firing, HardReset

STEPS, TAU_MEMBRANE, TAU_SYNAPSE = 5, 5.0, 2.0
COLUMNS = ("epoch", "seconds", "train_loss", "test_accuracy", "device")
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        rule: how it learns; ``reference`` is NA as the authors' program has it.
        epochs: passes over the training images, 200 in the paper.
        device: where.
        threads: of torch.
        batch: images at once.
        limit: training images, for a trial; all by default.
        seed: of weights, order and augmentation.
        data: folder with MNIST; by default the usual places.
        work: folder for checkpoints.
        results: folder for the tables.
    """

    rule: Literal["na", "reference", "surrogate"] = "na"
    epochs: int = 200
    device: str = "cpu"
    threads: int = 1
    batch: int = 64
    limit: int | None = None
    seed: int = 0
    data: str | None = None
    work: Path = Path("runs/na")
    results: Path = Path("docs/results/na")


RULES: dict[str, st.Rule] = {
    "na": st.NA(),
    "reference": st.NA.reference(),
    "surrogate": st.SurrogateBPTT(train_thresholds=False),
}


@dataclass(frozen=True, kw_only=True)
class Kernel(Loss):
    """``L = Σ_t ½ |a[t] - ā[t]|²``, the mean over images; ``ā`` filtered like the outputs ``a``.

    The neuron of the label is to fire at every step, the others never.
    """


@register_loss(Kernel)
def kernel(loss: Kernel, scene: Scene) -> Criterion:
    """Return the criterion."""

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        ones = outputs.new_ones(len(outputs), 1, 1)
        always, _ = st.Synapse(tau=TAU_SYNAPSE)(ones)
        goal = always * functional.one_hot(batch.labels, outputs.shape[-1])
        return (outputs - goal).square().sum() / (2 * outputs.shape[1])

    return criterion


class SumPool(nn.Module):
    """Twice-two windows, summed and weighed by 1.1; several times faster than ``AvgPool2d``."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``[B, C, H, W]``."""
        rows = x[..., ::2, :] + x[..., 1::2, :]
        return 1.1 * (rows[..., ::2] + rows[..., 1::2])


def network(seed: int) -> st.SpikingNetwork:
    """Return the untrained network."""
    torch.manual_seed(seed)
    ann = nn.Sequential(
        nn.Conv2d(1, 15, 5, bias=False), nn.ReLU(), SumPool(),
        nn.Conv2d(15, 40, 5, bias=False), nn.ReLU(), SumPool(), nn.Flatten(),
        nn.Linear(640, 300, bias=False), nn.ReLU(), nn.Linear(300, 10, bias=False), nn.ReLU(),
    )  # fmt: skip
    for layer in ann:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    firing = Firing(reset=HardReset(), strict=True)
    neuron = st.LeakyNeuron(leak=1 - 1 / TAU_MEMBRANE, firing=firing)
    snn = st.twin(ann, STEPS, (1, 28, 28), neuron=neuron)
    st.add_synapses(snn, TAU_SYNAPSE, output=True)
    return snn


class Moved:
    """Batches of training images in a new order each time, shifted and turned at random."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int) -> None:
        self.images, self.labels, self.batch = images, labels, batch
        self.dataset = range(len(images))

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.images) / self.batch)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Start a pass."""
        for kept in torch.randperm(len(self.images)).split(self.batch):
            yield moved(self.images[kept]), self.labels[kept]


def moved(images: Tensor, shift: int = 4, turn: float = 15.0) -> Tensor:
    """Turn each image about its centre, then shift it by whole pixels; what comes in is black."""
    count, size, black = len(images), images.shape[-1], images.min()
    angle = (2 * torch.rand(count) - 1) * math.radians(turn)
    by = torch.randint(-shift, shift + 1, (2, count)) * (2 / size)
    cos, sin = angle.cos(), angle.sin()
    along = (cos * by[0] - sin * by[1], sin * by[0] + cos * by[1])
    matrix = torch.stack([cos, -sin, along[0], sin, cos, along[1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images - black, grid, align_corners=False) + black


def training() -> st.Training:
    """Return the paper's settings of the optimisation."""
    return st.Training(
        optimizer="adamw", learning_rate=5e-4, optimizer_options={"betas": (0.9, 0.999)},
        schedule="step", schedule_options={"decay_epochs": 1, "decay_rate": 0.985},
        warmup=0.0, clip_grad=1.0, loss=Kernel(),
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Train, a row an epoch."""
    torch.set_num_threads(settings.threads)
    sets = {
        split: st.load_data("mnist", split, settings.data, limit=limit).tensors
        for split, limit in (("train", settings.limit), ("test", None))
    }
    name = settings.rule if settings.limit is None else f"{settings.rule}_{settings.limit}"
    checkpoint = settings.work / f"{name}.checkpoint"
    table = settings.results / f"{name}.csv"
    for folder in (settings.work, settings.results):
        folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        write(table, "w", COLUMNS)
    where = torch.cuda.get_device_name() if "cuda" in settings.device else settings.device

    def row(done: Epoch) -> None:
        seconds, loss = f"{done.seconds:.1f}", f"{done.loss:.5f}"
        write(table, "a", (done.epoch, seconds, loss, done.validation, where))
        print(f"{name} epoch {done.epoch}: {loss}, {done.validation:.2%}, {seconds} s", flush=True)

    snn = network(settings.seed)
    st.tune(
        snn, Moved(*sets["train"], settings.batch), RULES[settings.rule], steps=STEPS,
        epochs=settings.epochs, training=training(), device=settings.device, precision="float32",
        validate=list(zip(*(part.split(500) for part in sets["test"]), strict=True)),
        checkpoint=checkpoint, resume=checkpoint.exists(), seed=settings.seed, on_epoch=row,
    )  # fmt: skip
    st.save(snn, settings.work / f"{name}.safetensors")


def write(path: Path, mode: Literal["a", "w"], row: Sequence[object]) -> None:
    """Write one row."""
    with path.open(mode, newline="") as file:
        csv.writer(file).writerow(row)


if __name__ == "__main__":
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**KEEP_MEMORY, **os.environ})
    main(auto_cli(Settings, as_positional=False))
