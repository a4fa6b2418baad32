"""Chunks of steps as functions that ``torch.compile`` has compiled as a whole, neurons included.

The parts of a graph that ``Pieces`` takes in pieces of one length become a function each: recorded
from how they run step by step, operation by operation, so that the compiler sees neither modules
nor Python. All tensors are arguments, weights and thresholds too: changed ones are seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import Target

from .chunk import Chunk, Moment, States, Values
from .dynamics import State
from .errors import SpiketuneError
from .functions import Sums
from .neurons import Neuron
from .pieces import Pieces
from .program import Monitor, Program
from .recording import apart, around, kind_of, over_tensors, recording, together
from .running import Chunks, Recordings, Runner, settled

if TYPE_CHECKING:
    from .network import SpikingNetwork

# Those that record CUDA graphs of their own would write over answers that are still needed.
Mode = Literal["default", "max-autotune-no-cudagraphs"]
Function = Callable[[list[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class CompiledChunks(Chunks):
    """Compile the whole network's steps with ``torch.compile``, the neurons among its layers.

    Compiling takes from seconds to minutes, once for each part of the graph and length of a piece,
    and is worth that where many batches of one shape follow. A step that depends on how many came
    before, as of ``Graded`` neurons and functions without a drive, is compiled for each number.
    Where something cannot be compiled, a warning says why and chunks run as they stand. Under
    autocast answers differ by more than elsewhere: what is computed in one go is rounded once.

    Attributes:
        mode: of ``torch.compile``; the other one tries several ways of a layer and keeps the best.
        most: functions compiled at most; what needs more of them runs as it stands.

    Raises:
        SpiketuneError: on another mode, or ``most`` below 1.

    Example:
        >>> CompiledChunks(mode="reduce-overhead")
        Traceback (most recent call last):
        ...
        spiketune.snn.errors.SpiketuneError: chunks are compiled in mode default,
        max-autotune-no-cudagraphs, not 'reduce-overhead'; for CUDA graphs take GraphedChunks()
    """

    mode: Mode = "default"
    most: int = 64

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise SpiketuneError(
                f"chunks are compiled in mode {', '.join(get_args(Mode))}, not {self.mode!r}; for "
                "CUDA graphs take GraphedChunks()"
            )
        if self.most < 1:
            raise SpiketuneError(f"most must be at least 1 function, not {self.most}")

    def start(self, snn: SpikingNetwork) -> Recordings:
        """Return what holds the compiled functions of a network."""
        return _Compiled(snn, self)


class _Compiled(Recordings):
    """Compiled functions, and what states look like that they begin with."""

    def __init__(self, snn: SpikingNetwork, how: CompiledChunks) -> None:
        super().__init__(snn)
        self._program = _CompiledProgram(snn.program, how)
        self._units = {n.name: n for n in snn.program.body if snn.program.is_unit(n)}
        self._like: dict[Hashable, States] = {}
        self._pieces: dict[Hashable, Pieces] = {}

    def forget(self) -> None:
        self._program.forget()
        self._like.clear()
        self._pieces.clear()

    def seen(self, kind: Hashable, states: States) -> None:
        like = over_tensors(lambda part: torch.empty_like(part, device="meta"), states)
        self._like.setdefault(kind, like)

    def run(
        self, plain: Runner, kind: Hashable, stem: Values, states: States, moment: Moment
    ) -> tuple[Any, States]:
        image = stem[self._program.image]
        # A first chunk that is given what others are needs no function of its own.
        states = states or self._begun(kind, image.device)
        if not isinstance(plain, Pieces):
            return self._program.run(stem, states, moment)
        if kind not in self._pieces:  # kept, for they may depend on how much memory is free
            self._pieces[kind] = Pieces(self._program, image)
        return self._pieces[kind].run(stem, states, moment)

    def _begun(self, kind: Hashable, device: torch.device) -> States:
        """Return the states before the first step, of all units and functions that have such."""
        begun: States = {}
        for name, like in self._like.get(kind, {}).items():
            if isinstance(like, Sums):
                inputs = tuple(torch.zeros_like(part, device=device) for part in like.inputs)
                begun[name] = Sums(inputs, torch.zeros_like(like.answer, device=device), 0)
            elif isinstance(unit := self._program.unit(self._units[name]), Neuron):
                begun[name] = _fresh(unit, like, device)
        return begun


class _CompiledProgram(Program):
    """A program whose parts run as compiled functions."""

    faster: Mapping[Target, Callable[..., Any]] = {}  # the compiler has ways of its own

    def __init__(self, program: Program, how: CompiledChunks) -> None:
        self.__dict__.update(vars(program))
        self._how, self._full = how, False
        self.forget()

    def forget(self) -> None:
        """Let all functions go."""
        self._parts: dict[Hashable, _Part | None] = {}
        self._functions: dict[Hashable, Function] = {}

    def advance(
        self,
        chunk: Chunk,
        nodes: Iterable[Node],
        states: States,
        monitor: Monitor | None = None,
    ) -> States:
        """Run some nodes of the body, as ``Program.advance`` does."""
        nodes = tuple(nodes)
        tensors, rest = apart(self._given(chunk, nodes, states))
        device = chunk.stem[self.image].device
        same = [id(tensor) for tensor in tensors]  # tied ones are one argument
        key = (
            nodes[0], len(nodes), chunk.moment, chunk.batch, around(device),
            kind_of(rest), kind_of(tensors), tuple(map(same.index, same)),
        )  # fmt: skip
        if key not in self._parts:
            self._parts[key] = self._part(chunk, nodes, tensors, rest)
        part = self._parts[key]
        if part is None:
            chunk.owned = False  # the caller may want to begin again with its states
            return super().advance(chunk, nodes, states)
        with torch.autocast(device.type, enabled=False):  # what it casts has been recorded
            values, after = together(part.like, part.function(tensors))
        for node in part.gone:
            del chunk.values[node]
        chunk.values.update(values)
        found: States = after
        return found

    def _given(self, chunk: Chunk, nodes: Sequence[Node], states: States) -> tuple[Any, ...]:
        """Return all that these nodes need: values, those of the images, states, and tensors."""
        needed = {source for node in nodes for source in node.all_input_nodes}
        called = {str(node.target) for node in nodes if node.op == "call_module"}
        units = {
            f"root.{path}.{name}": tensor
            for path in sorted(called)
            for name, tensor in _tensors_of(self._root.get_submodule(path))
        }
        own = {node.name: states[node.name] for node in nodes if node.name in states}
        return (
            {node: value for node, value in chunk.values.items() if node in needed},
            {node: value for node, value in chunk.stem.items() if node in needed},
            settled(self, own, chunk.moment.drive),
            units,
        )

    def _part(
        self, chunk: Chunk, nodes: Sequence[Node], tensors: list[Tensor], rest: Any
    ) -> _Part | None:
        """Record some nodes and return what runs them, None if that makes too many functions."""
        image, moment = chunk.stem[self.image], chunk.moment
        part = _Part({}, [])

        def work(given: list[Tensor]) -> list[Tensor]:
            values, stem, states, units = together(rest, given)
            inside = Chunk(self, {self.image: image, **stem}, moment)
            inside.values = dict(values)

            def run() -> States:
                return super(_CompiledProgram, self).advance(inside, nodes, states)

            after = functional_call(_Body(self._root, run), units)
            made = {node: one for node, one in inside.values.items() if node not in values}
            part.gone = [node for node in values if node not in inside.values]
            results, part.like = apart((made, after))
            return results

        with recording():
            graph = make_fx(work)(tensors)
        written = _written(graph, tensors)
        if written not in self._functions:
            if len(self._functions) >= self._how.most:
                self._say_full()
                return None
            self._functions[written] = _compiled(graph, self._how.mode)
        part.function = self._functions[written]
        return part

    def _say_full(self) -> None:
        if self._full:
            return
        self._full = True
        warnings.warn(
            f"{self._how.most} functions are compiled, and what needs more runs as it stands; give "
            "batches of one size and few numbers of steps, or CompiledChunks(most=...)",
            stacklevel=2,
        )


class _Part:
    """Some nodes as one function of tensors.

    Attributes:
        like: its results, apart from their tensors: values by node, and states.
        gone: values that nothing needs afterwards.
        function: the function.
    """

    function: Function

    def __init__(self, like: Any, gone: list[Node]) -> None:
        self.like, self.gone = like, gone


class _Body(nn.Module):
    """Calls a function while the tensors of its root are others."""

    def __init__(self, root: nn.Module, call: Callable[[], States]) -> None:
        super().__init__()
        self.root, self.call = root, call

    def forward(self) -> States:
        return self.call()


def _compiled(graph: GraphModule, mode: str) -> Function:
    """Return a recorded function as ``torch.compile`` makes it."""
    function: Function = torch.compile(graph, mode=mode, fullgraph=True, dynamic=False)
    return function


def _tensors_of(unit: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Return the parameters and buffers of a unit by name, tied ones at each of their names."""
    yield from unit.named_parameters(remove_duplicate=False)
    yield from unit.named_buffers(remove_duplicate=False)


def _written(graph: GraphModule, tensors: list[Tensor]) -> Hashable:
    """Return what is equal for functions that do the same, at whichever step they were recorded."""
    if graph.graph.find_nodes(op="get_attr"):  # a constant may hold anything
        return id(graph)
    return graph.code, kind_of(tensors)


def _fresh(neuron: Neuron, like: State, device: torch.device) -> State:
    """Return a neuron's state before the first step, laid out in memory as later ones are."""
    shape = (1, *like.membrane.shape)
    current = torch.zeros((), dtype=like.membrane.dtype, device=device).expand(shape)
    start = neuron.start(current)

    def laid_out(part: Tensor | None, as_: Tensor | None) -> Tensor | None:
        if part is None or as_ is None:
            return part
        return torch.empty_like(as_, device=device).copy_(part)

    membrane = laid_out(start.membrane, like.membrane)
    assert membrane is not None
    return State(membrane, laid_out(start.tracer, like.tracer), start.count)
