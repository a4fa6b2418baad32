"""One walk through a network, operation by operation, as ANN and as spiking network side by side.

All steps of an operation are run before the next operation starts. Whoever watches sees, at every
neuron, what reaches it in the ANN and what really reaches it as spikes from layers that are
finished, and may change that neuron, or the weights in front of it, before they run: balancing
and correcting layer by layer cost one simulation in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from spiketune.snn import Neuron, SpikingNetwork
from spiketune.snn.chunk import Chunk, Moment, States, Values
from spiketune.snn.ops import WEIGHTED


@dataclass(frozen=True)
class Arrival:
    """What arrives at one neuron.

    Attributes:
        name: of the neuron's node.
        neuron: may be changed by whoever watches, before it runs.
        ann: the current in the ANN, ``[B, ...]``.
        current: the current in the spiking network, ``[T, B, ...]``.
        drive: steps during which the image acts, None for always.

    Example:
        >>> from spiketune.snn import SignedIF
        >>> neuron = SignedIF(torch.tensor(1.0), initial=0.5)
        >>> at = Arrival("relu", neuron, torch.ones(1, 2), torch.ones(4, 1, 2), None)
        >>> at.says(at.current)
        tensor([[1., 1.]])
    """

    name: str
    neuron: Neuron
    ann: Tensor
    current: Tensor
    drive: int | None

    @property
    def count(self) -> int:
        """Number of steps that the sum of all steps stands for, ``min(T, D)``."""
        return min(len(self.current), self.drive or len(self.current))

    @property
    def mean(self) -> Tensor:
        """The current as a value, ``[B, ...]``: its sum over the steps in which images act."""
        return self.current.sum(0) / self.count

    @property
    def answer(self) -> Tensor:
        """What the neuron, as it is now, says of what arrives, ``[B, ...]``."""
        return self.says(self.current)

    def says(self, current: Tensor) -> Tensor:
        """Return what the neuron, as it is now, says of a current ``[T, B, ...]``: ``[B, ...]``."""
        spikes: Tensor = self.neuron(current)[0]
        return spikes.sum(0) / self.count

    def shifted(self, current: Tensor, shift: Tensor) -> Tensor:
        """Return a current with a constant added while the image acts."""
        return torch.cat([current[: self.count] + shift, current[self.count :]])


# Looks at a neuron before it runs; may return another current for it to run on.
Visit = Callable[[Arrival], Tensor | None]
# Looks at a node that sees spikes: before a weight runs with its input, after all others with
# their answers, in the ANN and in the spiking network, each [B, ...].
Look = Callable[[Node, Tensor, Tensor], None]


def walk(
    snn: SpikingNetwork,
    images: Tensor,
    steps: int,
    visit: Visit,
    *,
    weigh: Look | None = None,
    look: Look | None = None,
    reference: SpikingNetwork | None = None,
) -> None:
    """Walk through the network once.

    Args:
        snn: the network.
        images: one batch ``[B, C, H, W]``; all steps of a layer are held in memory at once.
        steps: ``T``.
        visit: called at each neuron before it runs.
        weigh: called before each operation with weights that sees spikes, with its node, the
            ANN's *answer* and the spiking network's *input* as values ``[B, ...]``; it may
            exchange the weights.
        look: called after each operation that sees spikes, neurons too, with its node and the
            answers of both as values ``[B, ...]``.
        reference: the network before it was corrected, whose graph is the ANN to compare with;
            by default the network's own.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(9, 4), st.Ternary(steps=8))
        >>> walk(snn, torch.rand(2, 4), 8, lambda at: print(at.name, list(at.current.shape)))
        _1_relu [8, 2, 3]
    """
    with torch.no_grad():
        both = _Both(snn, images, steps)
        original = _Original(reference or snn, images)
        for node in both.program.nodes:
            both.ann[node] = original.value(node, both.ann)
            if node in both.program.body:
                if weigh is not None and node.target in WEIGHTED:
                    weigh(node, both.ann[node], both.mean(node.all_input_nodes[0]))
                if both.is_neuron(node):
                    both.visit(node, visit)
                both.run(node)
                if look is not None and isinstance(both.ann[node], Tensor):
                    look(node, both.ann[node], both.mean(node))
            both.free(node)


class _Original:
    """The ANN, run along with a network that may have got more nodes since."""

    def __init__(self, snn: SpikingNetwork, images: Tensor) -> None:
        self.program, self.images = snn.program, images
        self.nodes = {node.name: node for node in self.program.nodes}
        self.values: Values = {}
        self.last = {n: node for node in self.program.nodes for n in node.all_input_nodes}

    def value(self, node: Node, before: Values) -> Any:
        """Return the ANN's value at a node; behind what was added, that in front of it."""
        own = self.nodes.get(node.name)
        if own is None:
            return before[node.all_input_nodes[0]] if node.all_input_nodes else None
        self.values[own] = found = self.program.value(own, self.values, self.images)
        for source in own.all_input_nodes:
            if self.last[source] is own:
                self.values.pop(source, None)
        return found


class _Both:
    """The network twice: as an ANN, and as a spiking network in one or two chunks of steps."""

    def __init__(self, snn: SpikingNetwork, images: Tensor, steps: int) -> None:
        self.program, self.drive = snn.program, snn.drive
        self.count = min(steps, snn.drive or steps)
        stem = self.program.stem(images)
        lengths = [self.count, steps - self.count]
        self.chunks = [
            Chunk(self.program, stem, Moment(length, number == 0, snn.drive))
            for number, length in enumerate(lengths)
            if length > 0
        ]
        self.ann: Values = {}
        self.last = {n: node for node in self.program.nodes for n in node.all_input_nodes}

    def is_neuron(self, node: Node) -> bool:
        return self.program.is_unit(node) and isinstance(self.program.unit(node), Neuron)

    def mean(self, node: Node) -> Tensor:
        total = sum(chunk.signal(node).sum(0) for chunk in self.chunks)
        assert isinstance(total, Tensor)
        return total / self.count

    def visit(self, node: Node, visit: Visit) -> None:
        source, neuron = node.all_input_nodes[0], self.program.unit(node)
        current = torch.cat([chunk.signal(source) for chunk in self.chunks])
        changed = visit(Arrival(node.name, neuron, self.ann[source], current, self.drive))
        if changed is not None:
            parts = torch.split(changed, [chunk.moment.steps for chunk in self.chunks])
            for chunk, part in zip(self.chunks, parts, strict=True):
                chunk.values[source] = chunk.kept(part, source)

    def run(self, node: Node) -> None:
        state = None
        for chunk in self.chunks:
            after: States = {}
            chunk.run(node, state, after)
            state = after.get(node.name)

    def free(self, node: Node) -> None:
        for source in node.all_input_nodes:
            if self.last[source] is node:
                for values in (self.ann, *(chunk.values for chunk in self.chunks)):
                    values.pop(source, None)
