"""Time neurons over all steps against a copy of as many numbers, and whole steps on the GPU.

    pip install -e '.[bench]'
    python scripts/bench_kernels.py
    python scripts/bench_kernels.py --device cuda

A neuron has to read a current and write a spike, as a copy reads and writes; on the way back it
reads the current and the gradient and writes another. The share of the copy's bandwidth counts
these and nothing else. Rows take turns in one process. On CUDA follow a training step of ResNet-18
against spikingjelly's, which picks its fastest kernels itself, and neighbourhood aggregation
against the surrogate gradient; the latter runs on a CPU too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from bench_peers import PEERS
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
    summaries,
    table,
    write,
)
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import spiketune as st
from spiketune.finetune import Batch, Rule, Task
from spiketune.finetune.rules import prepare
from spiketune.snn import IF, LIF, ATan, Firing, Graded, Neuron, SignedIF
from spiketune.snn.fused.choices import neuron_path

COPY = "copy"
NOT_MEASURED = "not measured (no GPU)\n"
_FIRING = Firing(surrogate=ATan())
NEURONS: dict[str, Callable[[Tensor], Neuron]] = {
    "IF": partial(IF, firing=_FIRING),
    "LIF": partial(LIF, leak=0.5, firing=_FIRING),
    "ternary": partial(SignedIF, initial=0.5, firing=_FIRING),
    "graded": partial(Graded, levels=8),
}
Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Settings(Bench):
    """What may be changed from the command line.

    Attributes:
        results: file for the tables.
        steps: T of the neurons.
        values: currents of a step.
        resnet_images: images of a batch of ResNet-18, at T = 4.
        resnet_size: their pixels.
        images: images of 28 pixels in a batch of the network for neighbourhood aggregation.
    """

    results: Path = Path("docs/results/performance/kernels.md")
    steps: int = 8
    values: int = 64 * 16 * 28 * 28
    resnet_images: int = 64
    resnet_size: int = 224
    images: int = 128


def passes(unit: Callable[[Tensor], Tensor], current: Tensor, path: str) -> tuple[Run, Run]:
    """Return what runs a unit forward, and backward alone.

    Raises:
        RuntimeError: if nothing comes out, or no gradient comes back.
    """
    grad = torch.rand_like(current)
    with neuron_path(path):
        sent = unit(current)
    (back,) = torch.autograd.grad(sent, current, grad, retain_graph=True)
    if not (bool(sent.any()) and bool(back.any())):
        raise RuntimeError(f"{unit} does no work: no spikes, or no gradient")

    def forward() -> None:
        with torch.no_grad(), neuron_path(path):
            unit(current)

    def backward() -> None:
        torch.autograd.grad(sent, current, grad, retain_graph=True)

    return forward, backward


def spikes_of(make: Callable[[Tensor], Neuron], device: str) -> Callable[[Tensor], Tensor]:
    """Return a kind of neuron as a function from currents to spikes."""
    neuron = make(torch.ones((), device=device)).requires_grad_(False)
    return lambda current: neuron(current)[0]


def neurons(settings: Settings) -> dict[str, Summary]:
    """Time the copy, ReLU and all kinds of neuron, each way, in turn."""
    size = (settings.steps, settings.values)
    current = torch.rand(size, device=settings.device).requires_grad_()
    source, target = torch.rand_like(current), torch.empty_like(current)
    runs: dict[str, Run] = {COPY: lambda: target.copy_(source)}
    runs["ReLU forward"], runs["ReLU backward"] = passes(torch.relu, current, "eager")
    for kind, make in NEURONS.items():
        for path in ("compiled", "eager"):
            unit = spikes_of(make, settings.device)
            forward, backward = passes(unit, current, path)
            runs |= {f"{kind} forward, {path}": forward, f"{kind} backward, {path}": backward}
    runs = {name: runs[name] for name in chosen(list(runs), settings)}
    return summaries(in_turn(runs, settings.rounds, settings.device), settings.device)


def neuron_table(settings: Settings, kept: bool) -> str:
    """Return the table of neurons, with their shares of the copy's bandwidth."""
    found = fresh(kept, settings.threads, neurons, settings)
    rows = []
    for name, row in found.items():
        moved = 1.5 if "backward" in name else 1.0
        rows.append([name, *row.cells(), f"{100 * moved / row.ratio:.0f}"])
    return table(["row", *TIMES, "% of copy bandwidth"], rows)


def learning(net: nn.Module, rule: Rule, steps: int, shape: tuple[int, ...], batch: Batch) -> Run:
    """Return a training step of a network's spiking twin under a rule."""
    snn = st.twin(net, steps, shape).to(batch.images.device)
    task = Task(steps=steps, criterion=lambda out, given: cross_entropy(out.mean(0), given.labels))
    learn = prepare(snn, rule, task)

    def step() -> None:
        snn.zero_grad()
        with neuron_path("compiled"):
            learn(batch)

    return step


def resnet_steps(settings: Settings, steps: int = 4) -> dict[str, Summary]:
    """Time a training step of ResNet-18 here and in spikingjelly."""
    shape = (3, settings.resnet_size, settings.resnet_size)
    net = timm.create_model("resnet18", num_classes=10)
    images = torch.rand(settings.resnet_images, *shape, device=settings.device)
    batch = Batch(images, torch.arange(len(images), device=settings.device) % 10)
    rule = st.SurrogateBPTT(surrogate=ATan(), train_thresholds=False)
    runs = {"spiketune, ResNet-18": learning(net, rule, steps, shape, batch)}
    name = "spikingjelly, multi-step"
    if PEERS[name].installed:
        how = PEERS[name]
        theirs = timm.create_model("resnet18", num_classes=10).to(settings.device)
        for path, module in list(theirs.named_modules()):
            if isinstance(module, nn.ReLU):
                theirs.set_submodule(path, how.unit(1.0, steps))

        def step() -> None:
            theirs.zero_grad()
            cross_entropy(how.run(theirs, images, steps).mean(0), batch.labels).backward()

        runs[name] = step
    return summaries(in_turn(runs, settings.rounds, settings.device), settings.device)


def aggregation(settings: Settings, steps: int) -> dict[str, Summary]:
    """Time a step of neighbourhood aggregation against the surrogate's, on the paper's network."""
    net = nn.Sequential(
        nn.Conv2d(1, 15, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(15, 40, 5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(640, 300), nn.ReLU(), nn.Linear(300, 10),
    )  # fmt: skip
    images = torch.rand(settings.images, 1, 28, 28, device=settings.device)
    batch = Batch(images, torch.arange(len(images), device=settings.device) % 10)
    rules = {"surrogate": st.SurrogateBPTT(), "neighbourhood aggregation": st.NA()}
    runs = {
        f"{name}, T={steps}": learning(net, rule, steps, (1, 28, 28), batch)
        for name, rule in rules.items()
    }
    return summaries(in_turn(runs, settings.rounds, settings.device), settings.device)


def steps_table(function: Callable[..., dict[str, Summary]], settings: Settings, *args: int) -> str:
    """Return the table of whole training steps, timed in a process of their own."""
    found = fresh(False, settings.threads, function, settings, *args)
    return table(["row", *TIMES], [[name, *row.cells()] for name, row in found.items()])


def main(settings: Settings) -> None:
    """Measure all rows that this machine can run and write the tables."""
    millions = settings.steps * settings.values / 1e6
    parts = ["# Neurons over all steps", "", about(settings)]
    parts += [f"T = {settings.steps}, {millions:.1f} million currents in single precision."]
    for kept in allocators(settings):
        parts += [f"\n## {allocator(kept)}\n", neuron_table(settings, kept)]
    parts += ["\n## The same on a GPU\n", NOT_MEASURED] * (settings.device == "cpu")
    size = f"{settings.resnet_images} images of {settings.resnet_size} pixels"
    parts += [f"\n## A training step of ResNet-18, T=4, {size}, on a GPU\n"]
    gpu = settings.device != "cpu"
    parts += [steps_table(resnet_steps, settings) if gpu else NOT_MEASURED]
    parts += ["\n## Neighbourhood aggregation against the surrogate gradient, a whole step\n"]
    if hasattr(st, "NA"):
        parts += [steps_table(aggregation, settings, steps) for steps in (5, 10)]
    parts += [f"On a GPU: {NOT_MEASURED}"] * (not gpu)
    write(settings.results, parts)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
