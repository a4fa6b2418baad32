"""Time a training step of a small convolutional network in each library, and its peak memory.

    pip install -e '.[bench]'
    python scripts/bench_training.py
    python scripts/bench_training.py --only '[spiketune, plain]' --rounds 3

Three convolutions and a linear layer on MNIST's 28 pixels. The floor is the ANN on T x B images:
the same convolutions, ReLU in place of neurons. All start from the same weights and
integrate-and-fire neurons of threshold 1, compute the first convolution once an image and
not once a step, as the image does not change, and end when the gradients of one batch are there:
no optimizer. Rows take turns in one process; memory is measured in a process for each row, as the
growth of the resident set's peak from before the first whole batch, so that weights and
libraries are not in it but gradients are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from bench_peers import PEERS, Peer, missing
from bench_timing import (
    TIMES,
    Bench,
    Summary,
    about,
    allocator,
    allocators,
    chosen,
    fresh,
    in_turn,
    peak,
    summaries,
    table,
    write,
)
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import spiketune as st
from spiketune.finetune import Batch, Task
from spiketune.finetune.rules import prepare
from spiketune.snn import ATan
from spiketune.snn.fused.choices import neuron_path

Step = Callable[[int], Tensor]
FLOOR = "ANN on T x B images"
ONCE = "ANN, first convolution once"


@dataclass(frozen=True, kw_only=True)
class Settings(Bench):
    """What may be changed from the command line.

    Attributes:
        results: file for the tables.
        steps: T.
        images: B, the images of a batch.
    """

    results: Path = Path("docs/results/performance/training.md")
    steps: int = 8
    images: int = 64


def network(activation: Callable[[], nn.Module], device: str) -> nn.Sequential:
    """Return the network, with weights that keep neurons of threshold 1 firing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), activation(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), activation(), nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), activation(), nn.Flatten(), nn.Linear(64 * 49, 10),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    return net.to(device)


def data(settings: Settings) -> Batch:
    """Return a batch of images and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(settings.images, 1, 28, 28, generator=generator)
    batch = Batch(images, torch.arange(settings.images) % 10)
    return Batch(batch.images.to(settings.device), batch.labels.to(settings.device))


def dense(settings: Settings) -> tuple[nn.Module, Step]:
    """Return the ANN and its step on as many images as a spiking network sees in all steps."""
    net, batch = network(nn.ReLU, settings.device), data(settings)

    def step(images: int) -> Tensor:
        given = batch.images[:images].repeat(settings.steps, 1, 1, 1)
        outputs: Tensor = net(given).unflatten(0, (settings.steps, -1))
        cross_entropy(outputs.mean(0), batch.labels[:images]).backward()
        return outputs.detach()

    return net, step


def dense_once(settings: Settings) -> tuple[nn.Module, Step]:
    """Return the ANN as the spiking networks run: the first convolution once an image."""
    how = Peer("torch", lambda threshold, steps: nn.ReLU(), lambda net: None, whole=True)
    return peer(settings, how)


def peer(settings: Settings, how: Peer) -> tuple[nn.Module, Step]:
    """Return a network of another library, and its step."""
    net = network(lambda: how.unit(1.0, settings.steps), settings.device)
    stem, body, batch = net[0], net[1:], data(settings)

    def step(images: int) -> Tensor:
        outputs = how.run(body, stem(batch.images[:images]), settings.steps)
        cross_entropy(outputs.mean(0), batch.labels[:images]).backward()
        return outputs.detach()

    return net, step


def ours(
    settings: Settings, path: str, *, thresholds: bool = False, pack: bool = False
) -> tuple[nn.Module, Step]:
    """Return the spiking twin and its step, neurons run as ``path`` says."""
    snn = st.twin(network(nn.ReLU, "cpu"), settings.steps, (1, 28, 28)).to(settings.device)
    seen: list[Tensor] = []

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        seen[:] = [outputs.detach()]
        return cross_entropy(outputs.mean(0), batch.labels)

    rule = st.SurrogateBPTT(surrogate=ATan(), train_thresholds=thresholds, pack_spikes=pack)
    learn = prepare(snn, rule, Task(steps=settings.steps, criterion=criterion))
    batch = data(settings)

    def step(images: int) -> Tensor:
        with neuron_path(path):
            learn(Batch(batch.images[:images], batch.labels[:images]))
        return seen[0]

    return snn, step


ROWS: dict[str, Callable[[Settings], tuple[nn.Module, Step]]] = {
    FLOOR: dense,
    ONCE: dense_once,
    "spiketune, neurons compiled": partial(ours, path="compiled"),
    "spiketune, neurons eager": partial(ours, path="eager"),
    "spiketune, neurons auto": partial(ours, path="auto"),
    "spiketune, spikes kept as bytes": partial(ours, path="compiled", pack=True),
    "spiketune, thresholds trained too": partial(ours, path="compiled", thresholds=True),
    **{name: partial(peer, how=how) for name, how in PEERS.items()},
}


def ready(name: str, settings: Settings) -> tuple[Callable[[], None], str]:
    """Return the step of a row from cleared gradients, and what shows that it does work.

    Raises:
        RuntimeError: if its answers do not change over time, or the first layer learns nothing.
    """
    net, step = ROWS[name](settings)
    outputs = step(2)

    def run() -> None:
        net.zero_grad()
        step(settings.images)

    first = next(p.grad for p in net.parameters() if p.dim() == 4)
    learns = 0.0 if first is None else float(first.abs().sum())
    moves = float((outputs - outputs[:1]).abs().max())
    if name not in (FLOOR, ONCE) and not (learns > 0 and moves > 0):
        raise RuntimeError(f"{name}: gradients {learns}, change over time {moves}; it does no work")
    answer = float(outputs.mean(0).norm())
    return run, f"{answer:.2f}, {learns:.3g}"


def times(names: list[str], settings: Settings) -> tuple[dict[str, Summary], dict[str, str]]:
    """Time all rows in turn in this process, and say what each computes."""
    found = {name: ready(name, settings) for name in names}
    runs = {name: run for name, (run, _) in found.items()}
    taken = in_turn(runs, settings.rounds, settings.device)
    shown = {name: work for name, (_, work) in found.items()}
    return summaries(taken, settings.device), shown


def memory(name: str, settings: Settings) -> float:
    """Return the peak of one row's memory in this process."""
    return peak(ready(name, settings)[0], settings.device)


def measured(names: list[str], settings: Settings, kept: bool) -> str:
    """Return a table of all rows under one allocator."""
    ratios, works = fresh(kept, settings.threads, times, names, settings)
    rows = []
    for name in names:
        megabytes = fresh(kept, settings.threads, memory, name, settings)
        rows.append([name, *ratios[name].cells(), f"{megabytes:.0f}", works[name]])
        print(" | ".join(rows[-1]), flush=True)
    heads = ["row", *TIMES, "peak MB", "norm of answers, gradient of first layer"]
    return table(heads, rows)


def main(settings: Settings) -> None:
    """Measure all rows and write the tables."""
    names = chosen(list(ROWS), settings)
    lines = missing(names)
    names = [name for name in names if name not in PEERS or PEERS[name].installed]
    print("\n".join(lines), flush=True)
    parts = [
        "# A training step",
        "",
        about(settings),
        f"T = {settings.steps}, {settings.images} images of 28 pixels, convolutions of 16, 32 and "
        "64 channels. The floor computes the first convolution for T x B images, all others once "
        "an image. What answers and gradients amount to (of two images) shows that each row works "
        "and differs where neurons or slopes do.",
        *(f"{name}: {PEERS[name].note}." for name in names if name in PEERS and PEERS[name].note),
        *lines,
    ]
    for kept in allocators(settings):
        parts += [f"\n## {allocator(kept)}\n", measured(names, settings, kept)]
    write(settings.results, parts)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
