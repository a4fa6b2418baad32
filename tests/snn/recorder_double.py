"""A recorder for the CPU: what a graph would do, done by running the work again; and what ran."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from snn_networks import Residual, dyadic, dyadic_images, spiking
from torch import Tensor

import spiketune as st
from spiketune.snn import IF, Chunks, Neuron, SpikingNetwork, compiled, graphed, pieces, run_by
from spiketune.snn.recording import apart

STEPS = 5  # two chunks of 2 and a tail
ways = pytest.mark.parametrize("way", [st.CompiledChunks(), st.GraphedChunks()], ids=["c", "g"])


class Double:
    """Does recorded work again on the same tensors, and writes over the same results."""

    made = 0
    replayed = 0

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cpu"

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        Double.made += 1
        assert not torch.is_autocast_cache_enabled()  # or a graph would read what is freed
        results = work()
        written = apart(results)[0]

        def replay() -> None:
            Double.replayed += 1
            for place, found in zip(written, apart(work())[0], strict=True):
                place.copy_(found)

        for place in written:  # a graph that is recorded has not run yet
            place.fill_(float("nan"))
        return replay, results


class Made:
    """Counts what was recorded and how often it ran, of either way."""

    def __init__(self) -> None:
        self.functions = self.calls = 0

    def compiled(self, graph: Callable[..., Any], mode: str) -> Callable[..., Any]:
        self.functions += 1

        def run(tensors: list[Tensor]) -> Any:
            self.calls += 1
            assert not torch.is_autocast_enabled("cpu")  # or what is cast would be cast again
            return graph(tensors)

        return run

    @property
    def recorded(self) -> int:
        return self.functions + Double.made

    @property
    def ran(self) -> int:
        return self.calls + Double.replayed


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Take recorded operations for compiled ones, and a double on the CPU for a GPU."""
    found = Made()
    monkeypatch.setattr(compiled, "_compiled", found.compiled)
    monkeypatch.setitem(graphed.RECORDERS, "cpu", Double)
    monkeypatch.setattr(pieces, "LONGEST", 2)
    monkeypatch.setattr(Double, "made", 0)
    monkeypatch.setattr(Double, "replayed", 0)
    return found


def pair(
    way: Chunks, neuron: type[Neuron] = IF, drive: int | None = None
) -> tuple[SpikingNetwork, SpikingNetwork]:
    """Return a network whose sums are exact that runs as chosen, and its twin as it stands."""
    ann, x = dyadic(Residual()), dyadic_images(2, 1, 8, 8)
    for parameter in ann.parameters():  # so that spikes come to the end in few steps
        parameter.data *= 4
    snn = spiking(ann, x, neuron, steps=STEPS, drive=drive)
    plain = copy.deepcopy(snn)
    run_by(snn, way)
    return snn, plain
