"""Graphs of chunks: what is kept, what memory they read, and what is asked of CUDA."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from recorder_double import Double
from snn_networks import Residual, dyadic, dyadic_images, spiking

import spiketune as st
from spiketune.snn import IF, SpiketuneError, SpikingNetwork, graphed, neuron_path, run_by
from spiketune.snn.fused.choices import current_path


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> type[Double]:
    monkeypatch.setitem(graphed.RECORDERS, "cpu", Double)
    monkeypatch.setattr(Double, "made", 0)
    monkeypatch.setattr(Double, "replayed", 0)
    return Double


def network(steps: int = 3) -> SpikingNetwork:
    return spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), IF, steps=steps)


@torch.no_grad()
def test_the_graphs_used_last_are_kept(double: type[Double]) -> None:
    snn = network()
    plain = copy.deepcopy(snn)
    run_by(snn, st.GraphedChunks(most=2))
    images = [dyadic_images(size, 1, 8, 8) for size in (1, 2, 3)]
    for x in images:
        snn(x)

    def recorded(size: int) -> bool:
        before = double.made
        assert torch.equal(snn(images[size - 1]), plain(images[size - 1]))
        return double.made > before

    assert [recorded(size) for size in (1, 2, 1, 3, 1, 2)] == [True, True, False, True, False, True]


@torch.no_grad()
def test_a_graph_reads_weights_where_they_lie_and_images_where_they_were_copied(
    double: type[Double],
) -> None:
    snn = network()
    run_by(snn, st.GraphedChunks())
    x = dyadic_images(2, 1, 8, 8)
    snn(x), snn(x)
    (graph,) = snn._recordings._graphs.values()  # type: ignore[union-attr]
    places = {tensor.data_ptr() for tensor in snn.parameters()}
    assert not places & {tensor.data_ptr() for tensor in graph.reads}
    assert x.data_ptr() not in {tensor.data_ptr() for tensor in graph.reads}
    # The image, the stem's convolution of it, and nothing of the weights.
    shapes = sorted(tuple(tensor.shape) for tensor in graph.reads)
    assert shapes == [(2, 1, 8, 8), (2, 4, 8, 8)]


@torch.no_grad()
def test_a_graph_is_worth_kernels_and_follows_the_path_chosen(
    double: type[Double], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []
    record = double.record

    def noting(self: Double, work: object) -> object:
        paths.append(current_path())
        return record(self, work)  # type: ignore[arg-type]

    monkeypatch.setattr(double, "record", noting)
    snn, x = network(), dyadic_images(2, 1, 8, 8)
    run_by(snn, st.GraphedChunks())
    snn(x), snn(x), snn(x)
    with neuron_path("eager"):
        snn(x)
    assert paths == ["compiled", "eager"]
    monkeypatch.setattr("spiketune.snn.neurons.run_neuron", _without_kernels)
    run_by(snn, st.GraphedChunks())
    snn(x), snn(x)
    assert paths[-1] == "auto"


def _without_kernels(neuron: IF, x: torch.Tensor, state: object, **_: object) -> object:
    if current_path() == "compiled":
        raise OSError("no compiler")
    return neuron.run(x, state or neuron.start(x))  # type: ignore[arg-type]


def test_a_network_elsewhere_than_on_a_gpu_is_refused(double: type[Double]) -> None:
    snn, x = network(), dyadic_images(2, 1, 8, 8)
    run_by(snn, st.GraphedChunks())
    del graphed.RECORDERS["cpu"]  # as if it had been moved
    with torch.no_grad(), pytest.raises(SpiketuneError, match=r"lies on cpu; move it with \.to"):
        snn(x)
    with pytest.raises(SpiketuneError, match=r"recorded on cuda, but the network lies on cpu"):
        run_by(snn, st.GraphedChunks())
    with pytest.raises(SpiketuneError, match="at least 1 graph, not 0"):
        st.GraphedChunks(most=0)
    graphed.RECORDERS["cpu"] = double


class FakeCuda:
    """Writes down what is asked of CUDA."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def Stream(self) -> FakeStream:
        return FakeStream(self, "side")

    def current_stream(self) -> FakeStream:
        return FakeStream(self, "current")

    def graph_pool_handle(self) -> str:
        self.said.append("pool")
        return "pool 1"

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.said.append(f"on {device}")
        yield

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.said.append(f"to {stream.name}")
        yield
        self.said.append("back")

    @contextmanager
    def graph(self, graph: FakeCuda, **settings: str) -> Iterator[None]:
        self.said.append(f"record {settings}")
        yield
        self.said.append("end")

    def CUDAGraph(self) -> FakeCuda:
        return self

    def replay(self) -> None:
        self.said.append("replay")


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.said.append(f"{self.name} waits for {other.name}")


def test_cuda_is_asked_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    recorder = graphed.CudaRecorder(torch.device("cuda:1"))
    replay, results = recorder.record(lambda: fake.said.append("work") or 7)
    assert results == 7
    replay()
    settings = {"pool": "pool 1", "capture_error_mode": "thread_local"}
    assert fake.said == [
        "on cuda:1", "side waits for current", "to side", *["work"] * 3, "back",
        "current waits for side", "pool", f"record {settings}", "work", "end", "replay",
    ]  # fmt: skip
    recorder.record(lambda: None)
    assert fake.said.count("pool") == 1
