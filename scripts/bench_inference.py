"""Time converted networks at T steps in each library, against T passes of their ANN.

    pip install -e '.[bench]'
    python scripts/bench_inference.py
    python scripts/bench_inference.py --networks '[residual14]' --only '[spiketune, plain]'

Each network has untrained weights, BatchNorm statistics of the images it is run on, and is
converted once to binary integrate-and-fire neurons that reset softly. All rows run that one
network, BatchNorms folded: the floor with its activations, the peers with their own neurons and
thresholds folded into the weights, which is more than their converters do; they see the image at
every step, as their converters leave it. Rows take turns in one process for each network; memory
is measured in a process for each row, as the growth of the resident set's peak, for
spiketune at 4 T steps too. Last, what it costs to know the accuracy at all budgets up to 2 T, and
how far layers in bfloat16 take answers from those in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import timm
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
from torch.nn.modules.batchnorm import _BatchNorm
from train_anns import residual14

import spiketune as st
from spiketune.precision import Agreement, agreement
from spiketune.snn import Chunks, Neuron, SpikingNetwork
from spiketune.snn.fused.choices import neuron_path

FLOOR = "ANN, T passes"
BATCHES = 8  # what is prepared once, as for counting, is to weigh as little as on a test set
HALF = "spiketune, autocast to bfloat16"
WHOLE = "spiketune, whole network compiled"
GRAPHS = "spiketune, CUDA graphs"
COMPARED = 64  # images at least, in bfloat16 and in float32


class Network(NamedTuple):
    """A network to run.

    Attributes:
        build: makes it.
        shape: of an image.
        images: in a batch.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    images: int


NETWORKS = {
    "residual14": Network(residual14, (1, 28, 28), 32),
    "resnet18": Network(partial(timm.create_model, "resnet18"), (3, 64, 64), 8),
    "efficientnet_lite0": Network(
        partial(timm.create_model, "tf_efficientnet_lite0"), (3, 224, 224), 4
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings(Bench):
    """What may be changed from the command line.

    Attributes:
        results: file for the tables.
        networks: those to run.
        steps: T.
        channels_last: lay out weights and images of all rows so.
    """

    results: Path = Path("docs/results/performance/inference.md")
    networks: list[str] = field(default_factory=lambda: list(NETWORKS))
    steps: int = 16
    channels_last: bool = False


def converted(name: str, settings: Settings) -> tuple[SpikingNetwork, Tensor]:
    """Return a network with binary neurons, and the images to run."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    ann, images = network.build(), torch.rand(network.images, *network.shape)
    for module in ann.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        ann.train()(images)
    method = st.Binary(per="layer", initial=0.0, steps=settings.steps)
    snn = st.to_snn(ann.eval(), images, method)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    placed = snn.to(settings.device).to(memory_format=layout)
    return placed, images.to(settings.device, memory_format=layout)


def with_units(snn: SpikingNetwork, unit: Callable[[Neuron], nn.Module]) -> nn.Module:
    """Return a network's graph with other modules in the place of its neurons."""
    net = deepcopy(snn.net)
    for node, neuron in snn.neuron_nodes():
        net.set_submodule(str(node.target), unit(neuron))
    return net


class Activation(nn.Module):
    """What a neuron stood for."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.relu = nn.ReLU6() if neuron.ceiling is not None else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        active: Tensor = self.relu(x)
        return active


class Silent(nn.Module):
    """A neuron that never fires."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


Answer = Callable[[], Tensor]


def dense(snn: SpikingNetwork, images: Tensor, steps: int) -> Answer:
    """Return what runs the ANN once for each step."""
    net = with_units(snn, Activation)
    return lambda: [net(images) for _ in range(steps)][-1]


def ours(snn: SpikingNetwork, images: Tensor, steps: int, path: str, half: bool = False) -> Answer:
    """Return what runs the spiking network, neurons as ``path`` says, layers perhaps halved."""

    def answer() -> Tensor:
        with neuron_path(path), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            found: Tensor = snn(images, steps)
            return found

    return answer


def recorded(snn: SpikingNetwork, images: Tensor, steps: int, chunks: Chunks) -> Answer:
    """Return what runs the spiking network with its chunks of steps compiled or as graphs."""
    twin = deepcopy(snn)
    st.run_by(twin, chunks)
    return ours(twin, images, steps, "compiled")


def peer(snn: SpikingNetwork, images: Tensor, steps: int, how: Peer) -> Answer:
    """Return what runs the network with the neurons of another library."""
    net = with_units(snn.fold(), lambda neuron: how.unit(float(neuron.threshold), steps))
    net.eval().to(images.device)
    return lambda: how.run(net, images, steps).mean(0)


ROWS: dict[str, Callable[[SpikingNetwork, Tensor, int], Answer]] = {
    FLOOR: dense,
    "spiketune, neurons compiled": partial(ours, path="compiled"),
    HALF: partial(ours, path="compiled", half=True),
    WHOLE: partial(recorded, chunks=st.CompiledChunks()),
    GRAPHS: partial(recorded, chunks=st.GraphedChunks()),
    "spiketune, neurons eager": partial(ours, path="eager"),
    **{name: partial(peer, how=how) for name, how in PEERS.items()},
}


@torch.no_grad()
def times(
    names: list[str], network: str, settings: Settings
) -> tuple[dict[str, Summary], dict[str, float]]:
    """Time all rows in turn in this process; say how far each answer is from the ANN's.

    Raises:
        RuntimeError: if a row answers as a network without spikes.
    """
    snn, images = converted(network, settings)
    runs = {name: ROWS[name](snn, images, settings.steps) for name in names}
    expected = runs[FLOOR]()
    silent = with_units(snn, lambda neuron: Silent())(images)
    far = {}
    for name, run in runs.items():
        answer = run()
        if torch.allclose(answer, silent) or not bool(answer.isfinite().all()):
            raise RuntimeError(f"{name} does no work: it answers as if nothing had fired")
        far[name] = float((answer - expected).norm() / expected.norm())
    return summaries(in_turn(runs, settings.rounds, settings.device), settings.device), far


@torch.no_grad()
def memory(name: str, network: str, steps: int, settings: Settings) -> float:
    """Return the peak of one row's memory in this process."""
    snn, images = converted(network, settings)
    run = ROWS[name](snn, images, steps)
    # A recording is made for one number of images, at the second and third run of it.
    for first in [run] * 3 if name in (WHOLE, GRAPHS) else [ROWS[name](snn, images[:1], steps)]:
        first()
    for length in (1, 2, 4, 8):  # compilers take memory, too
        ours(snn, images[:1], length, "compiled")()
        with neuron_path("compiled"):
            snn.unroll(images[:1], 2 * length, chunk=length)
    return peak(run, settings.device, times=2)


@torch.no_grad()
def budgets(network: str, settings: Settings) -> dict[str, Summary]:
    """Time the accuracy at all budgets up to 2 T against the last answer alone."""
    snn, images = converted(network, settings)
    steps, labels = 2 * settings.steps, torch.arange(len(images)) % 10
    batches = [(images, labels)] * BATCHES
    runs: dict[str, Callable[[], object]] = {
        f"answer at T={steps}": lambda: [snn(images, steps) for _ in batches],
        "answers at all steps (unroll)": lambda: [snn.unroll(images, steps) for _ in batches],
        "accuracy, spikes, energy at all (sweep)": lambda: st.sweep(
            {"snn": snn}, batches, steps=steps
        ),
    }
    with neuron_path("compiled"):
        return summaries(in_turn(runs, settings.rounds, settings.device), settings.device)


def halved(network: str, settings: Settings) -> Agreement:
    """Return how the answers with layers in bfloat16 agree with those in float32."""
    snn, images = converted(network, settings)
    more = [torch.rand_like(images) for _ in range(-(-COMPARED // len(images)) - 1)]
    with neuron_path("compiled"):
        return agreement(snn, [(x,) for x in [images, *more]], settings.steps)


def measured(names: list[str], network: str, settings: Settings, kept: bool) -> list[str]:
    """Return the tables of one network under one allocator."""
    threads, steps = settings.threads, settings.steps
    found, far = fresh(kept, threads, times, names, network, settings)
    rows = []
    for name in names:
        budget = [steps, 4 * steps] if name.startswith("spiketune") else [steps]
        held = [fresh(kept, threads, memory, name, network, t, settings) for t in budget]
        shown = [*[f"{megabytes:.0f}" for megabytes in held], ""][:2]
        rows.append([name, *found[name].cells(), *shown, f"{far[name]:.3f}"])
        print(" | ".join(rows[-1]), flush=True)
    heads = ["row", *TIMES, "peak MB", f"at T={4 * steps}", "distance from the ANN"]
    half = fresh(kept, threads, halved, network, settings) if HALF in names else None
    sweep = fresh(kept, threads, budgets, network, settings)
    swept = [[name, *summary.cells()] for name, summary in sweep.items()]
    told = [] if half is None else [f"In bfloat16 {half}.\n"]
    return [table(heads, rows), *told, table([f"all budgets, of {BATCHES} batches", *TIMES], swept)]


def main(settings: Settings) -> None:
    """Measure all rows of all networks and write the tables."""
    names = chosen(list(ROWS), settings)
    lines = missing(names)
    names = [name for name in names if name not in PEERS or PEERS[name].installed]
    if settings.device != "cuda" and GRAPHS in names:
        names.remove(GRAPHS)
        lines.append(f"{GRAPHS}: skipped, not on a GPU")
    print("\n".join(lines), flush=True)
    parts = [
        "# Simulating a converted network",
        "",
        about(settings),
        f"T = {settings.steps}, all rows channels {'last' if settings.channels_last else 'first'}. "
        "Memory at 4 T is measured for spiketune only. A distance is that of the answers at T from "
        "the ANN's, over the norm of the ANN's.",
        *(f"{name}: {PEERS[name].note}." for name in names if name in PEERS and PEERS[name].note),
        *lines,
    ]
    for network in settings.networks:
        of = NETWORKS[network]
        for kept in allocators(settings):
            title = f"{network}, {of.images} images of {of.shape[1]} pixels, {allocator(kept)}"
            print(title, flush=True)
            parts += [f"\n## {title}\n", *measured(names, network, settings, kept)]
    write(settings.results, parts)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
