"""Run a graph over time: what depends on the image alone once, the rest step by step in chunks.

Stateless operations see time folded into the batch, ``[T*B, ...]``; units with a memory see
``[T, B, ...]``. With a constant image everything before the first neuron, the stem, has the same
value at every step and is computed once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import Argument, map_arg
from torch.nn import Module

from .dynamics import State
from .neurons import Temporal
from .ops import MAXIMA, RUNNABLE, SCALARS, SUMS, WEIGHTED, aten

Monitor = Callable[[str, Tensor], None]
States = dict[str, State]
Values = dict[Node, Any]


class Depends(Enum):
    """What the value of a node depends on."""

    PARAMETERS = 0
    SIZES = 1
    IMAGE = 2
    TIME = 3


def dependencies(graph: Graph, root: Module) -> dict[Node, Depends]:
    """Return for each node what its value depends on.

    Example:
        >>> from spiketune.snn.reading import read
        >>> net = read(torch.nn.Conv2d(1, 1, 3), torch.rand(2, 1, 8, 8))
        >>> {n.op: d.name for n, d in dependencies(net.graph, net).items()}["call_function"]
        'IMAGE'
    """
    found: dict[Node, Depends] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            found[node] = Depends.IMAGE
        elif node.op == "get_attr":
            found[node] = Depends.PARAMETERS
        elif node.op == "call_module" and isinstance(root.get_submodule(node.target), Temporal):
            found[node] = Depends.TIME
        elif _is_scalar(node, found):
            found[node] = Depends.SIZES
        else:
            # A constant stretched to the batch's size is one value an image, so SIZES < IMAGE.
            inputs = {found[n] for n in node.all_input_nodes}
            if inputs == {Depends.PARAMETERS, Depends.SIZES}:
                inputs = {Depends.IMAGE}
            depends = max(inputs, key=lambda d: d.value, default=Depends.PARAMETERS)
            unknown = node.op == "call_function" and node.target not in RUNNABLE
            # What has no rule is not known to be the same at every step.
            found[node] = Depends.TIME if unknown and depends == Depends.IMAGE else depends
    return found


def _is_scalar(node: Node, found: dict[Node, Depends]) -> bool:
    if node.target is aten.sym_size.int:
        return True
    inputs = node.all_input_nodes
    arithmetic = node.op == "call_function" and node.target in SCALARS
    return arithmetic and bool(inputs) and all(found[n] == Depends.SIZES for n in inputs)


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

    def __init__(self, graph: Graph, root: Module) -> None:
        self._root = root
        self._depends = dependencies(graph, root)
        self._nodes = [n for n in graph.nodes if n.op != "output"]
        (output,) = [n for n in graph.nodes if n.op == "output"]
        self._output: Node = output.args[0]
        self._body = [n for n in self._nodes if self._depends[n] in (Depends.TIME, Depends.SIZES)]
        self._undriven = {n: _undriven_args(n, self._depends) for n in self._body}
        self._free_all = _last_uses(self._nodes, self._output)
        self._free_body = _last_uses(self._body, self._output)

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
    ) -> Tensor:
        """Run once as an ANN, each unit replaced by what it stands for.

        Args:
            image: ``[B, C, H, W]``.
            observe: called with the name and the *input* ``[B, ...]`` of each unit.
            record: called with every node and its value.

        Returns:
            The answer, ``[B, ...]``.
        """
        values: Values = {}
        for node in self._nodes:
            if self._depends[node] == Depends.TIME and self._is_unit(node):
                unit = self._root.get_submodule(str(node.target))
                assert isinstance(unit, Temporal)
                current = values[only_input(node)]
                if observe is not None:
                    observe(node.name, current)
                values[node] = unit.ann(current)
            else:
                values[node] = self._call(node, lambda n: values[n], image)
            if record is not None:
                record(node, values[node])
            _free(values, self._free_all.get(node, ()))
        answer: Tensor = values[self._output]
        return answer

    def stem(self, image: Tensor) -> Values:
        """Compute what depends on the image alone, ``[B, ...]``, as far as the body needs it."""
        values: Values = {}
        for node in self._nodes:
            known = self._depends[node] != Depends.TIME and all(
                n in values for n in node.all_input_nodes
            )  # the size of a value of the body is known in the body only
            if known:
                values[node] = self._call(node, lambda n: values[n], image)
        needed = {n for node in self._body for n in node.all_input_nodes}
        return {node: value for node, value in values.items() if node in needed}

    def run(
        self,
        stem: Values,
        steps: int,
        states: States,
        *,
        driven: bool = True,
        monitor: Monitor | None = None,
    ) -> tuple[Tensor, States]:
        """Run the body for a chunk of steps.

        Args:
            stem: from ``stem``.
            steps: length of the chunk, ``T``.
            states: of every unit, empty at the start.
            driven: whether image and biases act; without them only what is under way moves on.
            monitor: called with the name and the output ``[T, B, ...]`` of each unit and maximum.

        Returns:
            The outputs ``[T, B, ...]`` and the states after the chunk.
        """
        values: Values = {}
        after: States = {}

        def value_of(node: Node) -> Any:
            if self._depends[node] == Depends.IMAGE:
                return _repeat(stem[node] if driven else torch.zeros_like(stem[node]), steps)
            return values[node] if node in values else stem[node]

        for node in self._body:
            if self._is_unit(node):
                unit = self._root.get_submodule(str(node.target))
                source = only_input(node)
                if self._depends[source] == Depends.IMAGE:
                    rest = stem[source] if driven else torch.zeros_like(stem[source])
                    current = rest.expand(steps, *rest.shape)
                else:
                    current = values[source].unflatten(0, (steps, -1))
                out, after[node.name] = unit(current, states.get(node.name))
                if monitor is not None:
                    monitor(node.name, out)
                values[node] = out.flatten(0, 1)
            elif node.target is aten.sym_size.int:
                values[node] = self._size(node, values, stem, steps)
            else:
                args = node.args if driven else self._undriven[node]
                values[node] = self._apply(node, args, value_of)
                if monitor is not None and node.target in MAXIMA:
                    monitor(node.name, values[node].unflatten(0, (steps, -1)))
            _free(values, self._free_body.get(node, ()))
        return values[self._output].unflatten(0, (steps, -1)), after

    def _is_unit(self, node: Node) -> bool:
        return node.op == "call_module" and isinstance(
            self._root.get_submodule(str(node.target)), Temporal
        )

    def _size(self, node: Node, values: Values, stem: Values, steps: int) -> int:
        """Return a size as the body sees it, with time folded into the first dimension."""
        source, dim = only_input(node), int(node.args[1])  # type: ignore[arg-type]
        if source in values:
            return int(values[source].shape[dim])
        return int(stem[source].shape[dim]) * (steps if dim == 0 else 1)

    def _call(self, node: Node, value_of: Callable[[Node], Any], image: Tensor) -> Any:
        if node.op == "placeholder":
            return image
        if node.op == "get_attr":
            return fetch(self._root, node)
        return self._apply(node, node.args, value_of)

    def _apply(
        self, node: Node, args: tuple[Argument, ...], value_of: Callable[[Node], Any]
    ) -> Any:
        arguments = map_arg(args, value_of)
        keywords = map_arg(node.kwargs, value_of)
        if node.op == "call_module":
            return self._root.get_submodule(str(node.target))(*arguments, **keywords)
        assert callable(node.target)
        return node.target(*arguments, **keywords)


def _undriven_args(node: Node, depends: dict[Node, Depends]) -> tuple[Argument, ...]:
    """Return the arguments with every constant that adds something left out."""
    args = list(node.args)
    if node.target in WEIGHTED:
        bias = WEIGHTED[node.target][1]
        return (*args[:bias], None, *args[bias + 1 :])
    if node.target in SUMS:
        for place, arg in enumerate(args):
            constant = isinstance(arg, Node) and depends[arg] == Depends.PARAMETERS
            if constant or isinstance(arg, int | float):
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


def only_input(node: Node) -> Node:
    """Return the first argument of a node, the value that it works on."""
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _repeat(value: Any, steps: int) -> Any:
    """Return ``[B, ...]`` repeated over time as ``[T*B, ...]``."""
    return value.expand(steps, *value.shape).flatten(0, 1)


def _last_uses(nodes: list[Node], output: Node) -> dict[Node, list[Node]]:
    """Return after which node which values are no longer needed."""
    last: dict[Node, Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[source] = node
    freed: dict[Node, list[Node]] = {}
    for source, node in last.items():
        if source is not output:
            freed.setdefault(node, []).append(source)
    return freed


def _free(values: Values, done: Iterable[Node]) -> None:
    for node in done:
        values.pop(node, None)
