"""Small spiking networks built by hand, without the converter, and tables made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spiketune.compare import FP32, Result, Table, wilson
from spiketune.snn import IF, Neuron, SpikingNetwork, read

MakeSpiking = Callable[..., SpikingNetwork]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def spiking() -> MakeSpiking:
    def make(
        ann: nn.Module,
        x: torch.Tensor,
        neuron: type[Neuron] = IF,
        about: dict[str, str | int | float] | None = None,
        drive: int | None = None,
    ) -> SpikingNetwork:
        net = read(ann, x)
        for node in list(net.graph.nodes):
            if "aten.relu" not in str(node.target):
                continue
            shape = node.meta["shape"]
            threshold = torch.rand(shape[1], *[1] * (len(shape) - 2)) * 0.3 + 0.2
            net.add_submodule(f"unit_{node.name}", neuron(threshold, initial=0.5))
            with net.graph.inserting_after(node):
                unit = net.graph.call_module(f"unit_{node.name}", (node.args[0],))
            node.replace_all_uses_with(unit)
            net.graph.erase_node(node)
        net.recompile()
        shape = tuple(x.shape[1:])
        return SpikingNetwork(net, steps=8, input_shape=shape, about=about, drive=drive).eval()

    return make


@pytest.fixture
def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 10),
    ).eval()


@pytest.fixture
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.rand(n, 1, 8, 8), torch.randint(10, (n,))) for n in (5, 3)]


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Table]:
    """A made-up table: an ANN at 90 % and spiking models by the hits given, one a budget."""

    def row(model: str, kind: str, steps: int, hits: int) -> Result:
        low, high = wilson(hits, 100)
        accumulates, macs = (0.0, 10_000) if kind == "ann" else (2000.0 * steps, 500)
        spent = FP32.nanojoules(macs=macs, accumulates=accumulates)
        return Result(
            model=model, kind=kind, steps=steps, images=100, top1=float(hits), low=low, high=high,
            accumulates=accumulates, macs=macs, energy_nj=spent, energy_ratio=spent / 46,
            agreement=50.0, spikes_per_neuron=None if kind == "ann" else 0.25 * steps, seconds=2.0,
            images_per_second=50.0, calibration_images=None if kind == "ann" else 64,
        )  # fmt: skip

    def make(ann: str = "ann", **spiking: list[int]) -> Table:
        budgets = tuple(range(1, 1 + max(map(len, spiking.values()))))
        rows = [row(ann, "ann", steps, 90) for steps in budgets]
        for model, hits in spiking.items():
            rows += [row(model, "ternary", steps, hits[steps - 1]) for steps in budgets]
        return Table(
            rows=tuple(rows), budgets=budgets, reference=ann, energy=FP32, device="cpu",
            threads=1, torch="2.6.0",
        )  # fmt: skip

    return make
