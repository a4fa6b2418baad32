"""Activation checkpointing: keep few activations, and compute the others again on the way back.

Forward, the body runs in segments and only what passes from one to the next is kept: activations
between blocks of the graph, states between stretches of time. Backward, each segment runs again
before gradients go through it. Gradients are those of keeping everything, for about one more
forward pass (two with segments of both kinds).

Source: Chen, Xu, Zhang & Guestrin 2016, "Training deep nets with sublinear memory cost"; of time:
Gruslys et al. 2016, "Memory-efficient backpropagation through time".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from spiketune.snn import Delay, Monitor, Neuron, Program, SpikingNetwork, Temporal
from spiketune.snn.chunk import Chunk, Moment, States, Values
from spiketune.snn.room import numbers_of

from .errors import TuneError
from .packing import AsItIs, Packing
from .segments import segment

T = TypeVar("T")
# Values that a neuron keeps for the way back, about, for each that it sends.
_KEPT = 3


class Recomputed(Program):
    """A network's graph that keeps only what passes between segments for the way back.

    Args:
        snn: the network; its parameters are shared.
        blocks: parts of the graph behind the first neuron, of about the same size; None for one
            that keeps all.
        over_time: whether every run of it, a stretch of time, is a segment too.
        packing: packs spikes that are computed again; those that pass between segments are packed
            where it is active.

    Raises:
        TuneError: if there are more blocks than neurons; or if something in the network would see
            a stretch of time where it is to see all steps.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn, image = st.twin(ann, 4, (4,)), torch.rand(2, 4)
        >>> outputs = snn.outputs(image, 4, chunk=2, program=Recomputed(snn, over_time=True))
        >>> torch.equal(torch.cat(list(outputs)).mean(0), snn(image))
        True
    """

    def __init__(
        self,
        snn: SpikingNetwork,
        *,
        blocks: int | None = None,
        over_time: bool = False,
        packing: Packing | None = None,
    ) -> None:
        super().__init__(snn.net.graph, snn.net)
        self._packing = packing
        self._net, self._over_time = snn.net, over_time
        self._blocks: list[list[Node]] = []
        if blocks is not None:
            most = sum(1 for _ in snn.neurons())
            if blocks > most:
                raise TuneError(
                    f"recompute_blocks={blocks}, but the network has {most} neurons to divide; "
                    f"give at most {most}"
                )
            self._blocks = self._divide(snn.shapes(), blocks)
        if over_time:
            self._require_steps_apart()

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[Any, States]:
        """Run the body for a chunk of steps."""
        assert monitor is None, "a monitor would see what is computed again once more"
        run = self._in_blocks if self._blocks else super().run
        if not self._over_time:
            return run(stem, states, moment)
        return self._segment(run, stem, states, moment)

    def _divide(self, shapes: dict[Node, Any], blocks: int) -> list[list[Node]]:
        kept = [_KEPT if self.is_unit(node) else 1 for node in self.body]
        sizes = [
            numbers_of(shapes[node]) * most for node, most in zip(self.body, kept, strict=True)
        ]
        parts = split(sizes, blocks)
        if self._packing is not None:
            behind = [at + 1 for at, node in enumerate(self.body) if self.is_unit(node)]
            parts = recut(parts, behind)
        return [[self.body[place] for place in part] for part in parts]

    def _in_blocks(self, stem: Values, states: States, moment: Moment) -> tuple[Any, States]:
        values: Values = {}
        after: States = {}
        for nodes in self._blocks:
            values, found = self._segment(self._block, nodes, stem, values, states, moment)
            after.update(found)
        chunk = Chunk(self, stem, moment)
        chunk.values = values
        return self.answer(chunk), after

    def _block(
        self, nodes: list[Node], stem: Values, values: Values, states: States, moment: Moment
    ) -> tuple[Values, States]:
        """Run some nodes on the values before them; return those behind them, and the states."""
        chunk = Chunk(self, stem, moment)
        chunk.values = values  # not a copy, which would keep what is no longer needed
        after = self.advance(chunk, nodes, states)
        return chunk.values, after

    def _segment(self, function: Callable[..., T], *given: object) -> T:
        keep = AsItIs.of if self._packing is None else self._packing.pack
        return segment(function, *given, again=self._again, keep=keep)

    @contextmanager
    def _again(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(Scratch(self._net))
            if self._packing is not None:
                stack.enter_context(self._packing.watching())
            yield

    def _require_steps_apart(self) -> None:
        for node in self.body:
            unit = self.unit(node) if node.op == "call_module" else nn.Identity()
            norm = any(isinstance(part, _BatchNorm) for part in unit.modules())
            if norm or (isinstance(unit, Temporal) and unit.whole):
                raise TuneError(
                    f"{node.name}: a {type(unit).__name__} takes all steps together, which "
                    "recompute_steps would run apart; use recompute_blocks"
                )
            if isinstance(unit, Delay) and unit.delay.requires_grad and unit.diff == "central":
                raise TuneError(
                    f"{node.name}: the central difference of a delay looks a step ahead, which "
                    "recompute_steps would run apart; build it with diff='backward', or use "
                    "recompute_blocks"
                )


class Scratch(AbstractContextManager[None]):
    """Let what modules write into their buffers be forgotten: they have been there already.

    A BatchNorm that trains moves its running statistics whenever it runs.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(3)
        >>> with Scratch(norm):
        ...     _ = norm(torch.randn(8, 3))
        >>> int(norm.num_batches_tracked)
        0
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._held: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        """Put copies in the place of the buffers."""
        self._held = [
            (module, name, buffer)
            for module in self._network.modules()
            if module.training and not isinstance(module, Neuron)
            for name, buffer in module.named_buffers(recurse=False)
        ]
        for module, name, buffer in self._held:
            setattr(module, name, buffer.clone())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the buffers back."""
        for module, name, buffer in self._held:
            setattr(module, name, buffer)
        self._held = []


def split(sizes: list[int], parts: int) -> list[list[int]]:
    """Divide things, in order, into at most so many parts of about the same size.

    Example:
        >>> split([6, 2, 2, 2], 2)
        [[0], [1, 2, 3]]
    """
    total, before = max(sum(sizes), 1), 0
    found: dict[int, list[int]] = {}
    for place, own in enumerate(sizes):
        # By the middle of each: a large one goes where most of it lies.
        found.setdefault(int((before + own / 2) * parts / total), []).append(place)
        before += own
    return [found[part] for part in sorted(found)]


def recut(parts: list[list[int]], allowed: list[int]) -> list[list[int]]:
    """Move each cut between parts to the nearest place where one is allowed.

    Spikes take less memory than the currents made of them, if they are packed.

    Example:
        >>> recut([[0, 1], [2, 3, 4]], [1, 4])
        [[0], [1, 2, 3, 4]]
    """
    end = parts[-1][-1] + 1
    cuts = {min(allowed, key=lambda at: abs(at - part[0])) for part in parts[1:]} - {end}
    edges = [0, *sorted(cuts), end]
    return [list(range(*pair)) for pair in pairwise(edges)]
