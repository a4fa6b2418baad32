"""Run a graph over time: what depends on the image alone once, the rest step by step in chunks.

With a constant image everything before the first neuron, the stem, has the same value at every step
and is computed once. How each kind of node runs on the steps of a chunk is told in ``chunk``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import Argument, Target, map_arg
from torch.nn import Module

from .chunk import Chunk, Moment, States, Values, leads, only_input, size_of
from .dependencies import SIGNALS, Depends, dependencies, is_linear
from .gates import MOMENTARY
from .neurons import Temporal
from .ops import SUMS, WEIGHTED, aten
from .pads import constant_padded, padded

# What runs in the place of some operations, with the same answer.
FASTER: dict[Target, Callable[..., Any]] = {
    aten.pad.default: padded,
    aten.constant_pad_nd.default: constant_padded,
}
Monitor = Callable[[str, Tensor], None]
Instead = Callable[[str, Temporal, Tensor], Tensor]


class Program:
    """The graph of a spiking network, sorted into stem and body and ready to run.

    Args:
        graph: nodes whose operations are in ``ops`` or modules of ``root``.
        root: holds the parameters and the units.

    Example:
        >>> from spiketune.snn.reading import read
        >>> net = read(torch.nn.Conv2d(1, 1, 3), torch.rand(2, 1, 8, 8))
        >>> list(Program(net.graph, net).ann(torch.rand(3, 1, 8, 8)).shape)
        [3, 1, 6, 6]
    """

    faster: Mapping[Target, Callable[..., Any]] = FASTER

    def __init__(self, graph: Graph, root: Module) -> None:
        self._root = root
        self.depends = dependencies(graph, root)
        self.nodes = [n for n in graph.nodes if n.op != "output"]
        (output,) = [n for n in graph.nodes if n.op == "output"]
        self._output = output.args[0]
        (self.image,) = graph.find_nodes(op="placeholder")
        self._wanted = output.all_input_nodes
        self.body = [n for n in self.nodes if self.depends[n] == Depends.TIME]
        self._undriven = {n: _undriven_args(n, self.depends) for n in self.body}
        self._free_all = _last_uses(self.nodes, self._wanted)
        self._free_body = _last_uses(self.body, self._wanted)
        self._by_step = {n for n in self.body if _must_go_by_step(n, self.depends)}
        self._linear = {n for n in self.body if is_linear(n, self.depends)}
        self.spent = {n for n in self.body if n not in self._wanted and _is_spent(n)}

    def shapes(self, image: Tensor) -> dict[Node, Any]:
        """Run once on ``image`` and return every tensor's shape and every size's number."""
        found: dict[Node, Any] = {}

        def note(node: Node, value: Any) -> None:
            found[node] = _shape(value)

        self.ann(image, record=note)
        return found

    def ann(
        self,
        image: Tensor,
        observe: Monitor | None = None,
        record: Callable[[Node, Any], None] | None = None,
        instead: Instead | None = None,
    ) -> Any:
        """Run once as an ANN, each unit replaced by what it stands for.

        Args:
            image: ``[B, C, H, W]``.
            observe: called with the name and the *input* ``[B, ...]`` of each unit.
            record: called with every node and its value.
            instead: answers in the place of a unit's ``ann``, given its name, the unit and its
                input.

        Returns:
            The answer, ``[B, ...]``, in the structure that the network returns.
        """
        values: Values = {}
        for node in self.nodes:
            if observe is not None and self.is_unit(node):
                observe(node.name, values[only_input(node)])
            if instead is not None and self.is_unit(node):
                values[node] = instead(node.name, self.unit(node), values[only_input(node)])
            else:
                values[node] = self.value(node, values, image)
            if record is not None:
                record(node, values[node])
            _free(values, self._free_all.get(node, ()))
        return map_arg(self._output, lambda n: values[n])

    def stem(self, image: Tensor) -> Values:
        """Compute what depends on the image alone, ``[B, ...]``, as far as the body needs it."""
        values: Values = {}
        for node in self.nodes:
            if self.depends[node] != Depends.TIME:
                values[node] = self.value(node, values, image)
        needed = {n for node in self.body for n in node.all_input_nodes}
        needed |= set(self._wanted)
        stem = {node: value for node, value in values.items() if node in needed}
        stem[self.image] = image  # for its batch size
        return stem

    def run(
        self,
        stem: Values,
        states: States,
        moment: Moment,
        *,
        monitor: Monitor | None = None,
    ) -> tuple[Any, States]:
        """Run the body for a chunk of steps.

        Args:
            stem: from ``stem``.
            states: of every unit and function, empty at the start.
            moment: length of the chunk, ``T``, and whether image and biases act.
            monitor: called with the name and the output ``[T, B, ...]`` of each unit.

        Returns:
            The outputs ``[T, B, ...]``, in the structure that the network returns, and the states
            after the chunk.
        """
        chunk = Chunk(self, stem, moment)
        after = self.advance(chunk, self.body, states, monitor)
        return self.answer(chunk), after

    def advance(
        self,
        chunk: Chunk,
        nodes: Iterable[Node],
        states: States,
        monitor: Monitor | None = None,
    ) -> States:
        """Run some nodes of the body, and return their states after the chunk.

        Afterwards the chunk holds the values that nodes still to come need.
        """
        after: States = {}
        for node in nodes:
            out = chunk.run(node, states.get(node.name), after)
            if monitor is not None and isinstance(out, Tensor) and self._is_source(node):
                monitor(node.name, chunk.over_time(out, node))
            _free(chunk.values, self._free_body.get(node, ()))
        return after

    def answer(self, chunk: Chunk) -> Any:
        """Return the outputs ``[T, B, ...]`` of a chunk that has come through the body."""
        return map_arg(self._output, chunk.signal)

    def last_used(self, node: Node) -> Iterable[Node]:
        """Return the values of the body that nothing needs after this node."""
        return self._free_body.get(node, ())

    def is_unit(self, node: Node) -> bool:
        """Whether a node calls a unit with a memory."""
        return node.op == "call_module" and isinstance(self.unit(node), Temporal)

    def unit(self, node: Node) -> Any:
        """Return the module that a node calls."""
        return self._root.get_submodule(str(node.target))

    def _is_source(self, node: Node) -> bool:
        return node.op == "call_module" and isinstance(self.unit(node), (Temporal, *MOMENTARY))

    def value(self, node: Node, values: Values, image: Tensor) -> Any:
        """Return a node's value in the ANN, given those of its inputs."""
        if node.op == "placeholder":
            return image
        if node.op == "get_attr":
            return fetch(self._root, node)
        if "size" in node.meta:
            return size_of(node, len(image))
        if self.is_unit(node):
            return self.unit(node).ann(values[only_input(node)])
        return self.apply(node, node.args, lambda n: values[n])

    def apply(self, node: Node, args: tuple[Argument, ...], value_of: Callable[[Node], Any]) -> Any:
        """Call what a node calls, with these arguments."""
        arguments = map_arg(args, value_of)
        keywords = map_arg(node.kwargs, value_of)
        if node.op == "call_module":
            return self.unit(node)(*arguments, **keywords)
        assert callable(node.target)
        return self.faster.get(node.target, node.target)(*arguments, **keywords)


def _must_go_by_step(node: Node, depends: dict[Node, Depends]) -> bool:
    """Whether time cannot be folded into the batch: it is not first, or worked along."""
    signals = [n for n in node.all_input_nodes if depends[n] in SIGNALS]
    return bool(node.meta.get("along")) or not all(leads(n) for n in (node, *signals))


def _is_spent(node: Node) -> bool:
    """Whether a value has memory of its own and its one user may overwrite it."""
    made = node.op == "call_function" and (node.target in WEIGHTED or node.target in SUMS)
    return made and len(node.users) == 1


def _undriven_args(node: Node, depends: dict[Node, Depends]) -> tuple[Argument, ...]:
    """Return the arguments with every bias, and every number that is added, left out."""
    args = list(node.args)
    if node.target in WEIGHTED:
        bias = WEIGHTED[node.target][1]
        return (*args[:bias], None, *args[bias + 1 :])
    if node.target in SUMS:
        for place, arg in enumerate(args[:2]):  # a third is a factor
            # A tensor gives way to zeros of its shape, which may make the sum's: see ``Chunk``.
            size = isinstance(arg, Node) and depends[arg] == Depends.SIZES
            if size or isinstance(arg, int | float):
                args[place] = torch.zeros(()) if place == 0 else 0
    return tuple(args)


def _shape(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_shape(part) for part in value)
    return tuple(value.shape) if isinstance(value, Tensor) else value


def fetch(root: Module, node: Node) -> Tensor:
    """Return the parameter or buffer that a ``get_attr`` node stands for."""
    value: Tensor = operator.attrgetter(str(node.target))(root)
    return value


def _last_uses(nodes: list[Node], outputs: list[Node]) -> dict[Node, list[Node]]:
    """Return after which node which values are no longer needed."""
    last: dict[Node, Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[source] = node
    freed: dict[Node, list[Node]] = {}
    for source, node in last.items():
        if source not in outputs:
            freed.setdefault(node, []).append(source)
    return freed


def _free(values: Values, done: Iterable[Node]) -> None:
    for node in done:
        values.pop(node, None)
