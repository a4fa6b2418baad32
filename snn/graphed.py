"""Chunks of steps as CUDA graphs: recorded once a shape, launched as one afterwards.

A graph reads and writes the same memory each time. What depends on the images, and the states, are
copied to where the graph reads them, and what it answers is copied before it runs again; weights
and thresholds are read where they lie, so that changes in place are seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .chunk import Moment, States, Values
from .errors import SpiketuneError
from .fused.choices import current_path, neuron_path
from .recording import apart, around, kind_of, recording, together
from .running import Chunks, Recordings, Runner, settled

if TYPE_CHECKING:
    from .network import SpikingNetwork

# Runs before a recording, in which libraries choose their ways and kernels are made.
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class GraphedChunks(Chunks):
    """Record each chunk of steps as a CUDA graph and launch it at once for images of that shape.

    A small network on a GPU waits for Python to launch its kernels one by one; a graph needs one
    launch for all. A graph serves one shape and type of images, number of steps, and place in time
    where a step depends on it; those used longest ago are let go. Where a chunk cannot be recorded,
    a warning says why and chunks run as they stand.

    Attributes:
        most: graphs kept at a time; each holds memory for the values of a chunk.

    Raises:
        SpiketuneError: on ``most`` below 1; by ``run_by``, on a network that is not on a GPU.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        >>> st.run_by(st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8)), GraphedChunks())
        Traceback (most recent call last):
        ...
        spiketune.snn.errors.SpiketuneError: graphs are recorded on cuda, but the network lies on
        cpu; move it with .to('cuda'), or call run_by(snn, None)
    """

    most: int = 32

    def __post_init__(self) -> None:
        if self.most < 1:
            raise SpiketuneError(f"most must be at least 1 graph, not {self.most}")

    def require(self, snn: SpikingNetwork) -> None:
        """Refuse a network that is not on a GPU, or of whose chunks no two are alike."""
        super().require(snn)
        _recorder_on(next(iter(snn.parameters()), torch.empty(())).device)

    def start(self, snn: SpikingNetwork) -> Recordings:
        """Return what holds the graphs of a network."""
        return _Graphs(snn, self)


class Recorder(Protocol):
    """Records what a device does."""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """Return what does the work again, and where its results lie each time."""


class CudaRecorder:
    """Records CUDA graphs, all in one pool of memory: what one leaves there, no other needs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """Run the work on a stream of its own, as CUDA asks for, then record it."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Other threads, as those that load images, may go on.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = work()
        return graph.replay, results


# What records on which kind of device.
RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}


def _recorder_on(device: torch.device) -> Recorder:
    if device.type not in RECORDERS:
        raise SpiketuneError(
            f"graphs are recorded on {', '.join(RECORDERS)}, but the network lies on {device.type};"
            " move it with .to('cuda'), or call run_by(snn, None)"
        )
    return RECORDERS[device.type](device)


class _Graph(NamedTuple):
    """One recorded chunk.

    Attributes:
        replay: does it again.
        reads: tensors to fill before.
        writes: tensors that hold what it gave.
        like: its outputs and states, apart from their tensors.
    """

    replay: Callable[[], object]
    reads: list[Tensor]
    writes: list[Tensor]
    like: Any


class _Graphs(Recordings):
    """The graphs of a network, the one used last at the end."""

    def __init__(self, snn: SpikingNetwork, how: GraphedChunks) -> None:
        super().__init__(snn)
        self._how, self._program = how, snn.program
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._recorder: Recorder | None = None
        self._device: torch.device | None = None

    def runner(self, plain: Runner, x: Tensor) -> Runner:
        if x.device != self._device:
            self.forget()
            self._recorder, self._device = _recorder_on(x.device), x.device
        return super().runner(plain, x)

    def depends_on(self) -> object:
        """Return all settings, and where in memory weights and thresholds lie."""
        tensors = [*self.net.parameters(), *self.net.buffers()]
        return super().depends_on(), [(one.data_ptr(), kind_of(one)) for one in tensors]

    def forget(self) -> None:
        self._graphs.clear()

    def seen(self, kind: Hashable, states: States) -> None:
        """Nothing of them is needed."""

    def run(
        self, plain: Runner, kind: Hashable, stem: Values, states: States, moment: Moment
    ) -> tuple[Any, States]:
        states = settled(self._program, states, moment.drive)
        held = {node: value for node, value in stem.items() if node.op == "get_attr"}
        tensors, rest = apart(({n: v for n, v in stem.items() if n not in held}, states))
        assert self._device is not None  # told by the images
        key = (
            type(plain), moment, around(self._device), current_path(), kind_of(rest),
            kind_of(tensors), tuple(value.data_ptr() for value in held.values()),
        )  # fmt: skip
        if key not in self._graphs:
            self._graphs[key] = self._record(plain, moment, held, tensors, rest)
            if len(self._graphs) > self._how.most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        torch._foreach_copy_(graph.reads, tensors)
        graph.replay()
        out, after = together(graph.like, [one.clone() for one in graph.writes])
        return out, after

    def _record(
        self, plain: Runner, moment: Moment, held: Values, tensors: list[Tensor], rest: Any
    ) -> _Graph:
        reads = [torch.empty_like(tensor).copy_(tensor) for tensor in tensors]
        moving, states = together(rest, reads)

        def work() -> Any:
            return plain.run({**held, **moving}, states, moment)

        assert self._recorder is not None
        with recording(), neuron_path(_path_for(work)):
            replay, results = self._recorder.record(work)
        writes, like = apart(results)
        return _Graph(replay, reads, writes, like)


def _path_for(work: Callable[[], object]) -> str:
    """Return how neurons are to run: a graph is worth their kernels, where these can be made."""
    if current_path() != "auto":
        return current_path()
    try:
        with neuron_path("compiled"):
            work()
    except Exception:  # what else may be wrong shows again
        return "auto"
    return "compiled"
