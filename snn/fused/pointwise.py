"""Read a traced graph as pointwise work: for one neuron, a list of scalar operations over time.

A graph of tensors ``[T, N]`` with settings ``[]``, or ``[T, M, K]`` with settings ``[K]``, does
the same at every place of ``N`` or ``M K``. What it does there is a ``Program``: loads, operations
on numbers, stores, steps unrolled. Printers such as ``c_source`` write it in a language.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

Number = bool | int | float
Operand = "Line | Number"


class Kind(Enum):
    """What an input of a kernel is: one value a step and place, a place, or a setting."""

    SEQUENCE = "a value each step and place, [T, N] or [T, M, K]"
    SAMPLE = "a value a place, [N] or [M, K]"
    WIDE = "a setting along the last dimension, [K]"
    SINGLE = "one number, []"


@dataclass(frozen=True, eq=False)
class Line:
    """One scalar operation.

    Attributes:
        name: of its value.
        dtype: of its value.
        op: in the words of ``OPS``; ``load`` for an input.
        args: values of earlier lines, and numbers.
    """

    name: str
    dtype: torch.dtype
    op: str
    args: tuple[Any, ...]


@dataclass
class Program:
    """What a kernel does at every place.

    Attributes:
        wide: whether settings differ along a last dimension.
        inputs: kind and precision of each argument.
        lines: in order.
        stores: argument, step and value of what is written into arguments.
        outputs: what is returned, None as None.
    """

    wide: bool
    inputs: list[tuple[Kind, torch.dtype]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    stores: list[tuple[int, int, Any]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    @property
    def written(self) -> set[int]:
        """The arguments that are written into."""
        return {place for place, _, _ in self.stores}


class UnknownOperation(Exception):
    """A graph holds what is not pointwise work over time."""


_aten = torch.ops.aten
# Operations on numbers: the traced overload packets, each with its word in a ``Line``.
OPS: dict[Any, str] = {
    _aten.add: "add", _aten.sub: "sub", _aten.mul: "mul", _aten.div: "div", _aten.neg: "neg",
    _aten.abs: "abs", _aten.ge: "ge", _aten.gt: "gt", _aten.le: "le", _aten.lt: "lt",
    _aten.eq: "eq", _aten.ne: "ne", _aten.where: "where", _aten.minimum: "minimum",
    _aten.maximum: "maximum", _aten.clamp_min: "maximum", _aten.clamp_max: "minimum",
    _aten.exp: "exp", _aten.log: "log", _aten.exp2: "exp2", _aten.log2: "log2",
    _aten.sqrt: "sqrt", _aten.tanh: "tanh", _aten.sigmoid: "sigmoid", _aten.atan: "atan",
    _aten.sigmoid_backward: "sigmoid_backward",
    _aten.reciprocal: "reciprocal", _aten.pow: "pow", _aten.floor: "floor", _aten.ceil: "ceil",
    _aten.trunc: "trunc", _aten.round: "round", _aten.sign: "sign", _aten.sgn: "sign",
    _aten.copysign: "copysign", _aten.logical_and: "and", _aten.bitwise_and: "and",
    _aten.logical_or: "or", _aten.bitwise_or: "or", _aten.logical_not: "not",
    _aten.bitwise_not: "not",
}  # fmt: skip
_SAME = {_aten.alias, _aten.detach, _aten.clone, _aten.lift_fresh_copy, _aten.expand, _aten.view}
_FILLED = {
    _aten.zeros_like: 0, _aten.ones_like: 1, _aten.new_zeros: 0, _aten.new_ones: 1,
    _aten.zeros: 0, _aten.ones: 1, _aten.full_like: None, _aten.new_full: None, _aten.full: None,
    _aten.scalar_tensor: None,
}  # fmt: skip


def read(graph: GraphModule) -> Program:
    """Return what a traced graph does at every place.

    Args:
        graph: from ``make_fx`` on examples; its first argument is a sequence.

    Raises:
        UnknownOperation: naming what is not pointwise.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> def double(out, x):
        ...     out.copy_(2 * x)
        >>> program = read(make_fx(double)(torch.empty(1, 5), torch.empty(1, 5)))
        >>> [line.op for line in program.lines], len(program.stores)
        (['load', 'load', 'mul'], 1)
    """
    return _Reader(graph).program


class _Reader:
    """The walk over a graph; a value over time is a list of its steps."""

    def __init__(self, graph: GraphModule) -> None:
        self.values: dict[Node, Any] = {}
        self.places: dict[Node, int] = {}
        nodes = list(graph.graph.nodes)
        self.dims = max(_example(node).dim() for node in nodes if node.op == "placeholder")
        self.program = Program(wide=self.dims == 3)
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = self.argument(node)
            elif node.op == "output":
                self.program.outputs = [self.one(part) for part in node.args[0] or ()]
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            else:
                raise UnknownOperation(f"{node.op} {node.target}")

    def argument(self, node: Node) -> Any:
        """Load an argument: a line for each step, or one."""
        example = _example(node)
        place = self.places[node] = len(self.program.inputs)
        kinds = {self.dims: Kind.SEQUENCE, self.dims - 1: Kind.SAMPLE, 0: Kind.SINGLE}
        kind = kinds.get(example.dim(), Kind.WIDE)
        self.program.inputs.append((kind, example.dtype))
        if kind is not Kind.SEQUENCE:
            return self.line(example.dtype, "load", place, 0)
        return [self.line(example.dtype, "load", place, step) for step in range(len(example))]

    def line(self, dtype: torch.dtype, op: str, *args: Any) -> Line:
        """Write one more line."""
        made = Line(f"v{len(self.program.lines)}", dtype, op, args)
        self.program.lines.append(made)
        return made

    def one(self, part: Any) -> Any:
        """Return an output, which is one value a place."""
        value = self.values[part] if isinstance(part, Node) else part
        if isinstance(value, list):
            raise UnknownOperation("a sequence that is returned instead of written")
        return value

    def call(self, node: Node) -> Any:
        """Run one node of the graph on lines."""
        packet = getattr(node.target, "overloadpacket", node.target)
        name = getattr(packet, "__name__", "")
        if name.endswith("_") and packet is not _aten.copy_:
            return self.in_place(name, node)
        args = [self.of(arg) for arg in node.args]
        if packet is _aten.copy_:
            return self.store(node, args[1])
        if packet in (_aten.unbind, _aten.stack, _aten.select) or node.target is operator.getitem:
            return self.rearranged(packet, node, args)
        if packet is _aten.sum:
            return self.summed(node, args)
        if packet in _FILLED:
            fill = _FILLED[packet]
            return self.spread(node, args[-1] if fill is None else fill)
        if packet in _SAME and not isinstance(node.args[-1], torch.dtype):
            return self.spread(node, args[0])
        return self.pointwise(packet, node, args)

    def of(self, arg: Any) -> Any:
        """Return what an argument of a node stands for."""
        if isinstance(arg, Node):
            return self.values[arg]
        return [self.of(part) for part in arg] if isinstance(arg, list | tuple) else arg

    def spread(self, node: Node, value: Any) -> Any:
        """Return a value as it is, repeated where the node's has steps and it has none."""
        example = _example(node)
        steps = example.dim() == self.dims
        if isinstance(value, list) and not steps:
            (value,) = value  # a sum over time that kept its dimension
        return [value] * len(example) if steps and not isinstance(value, list) else value

    def rearranged(self, packet: Any, node: Node, args: list[Any]) -> Any:
        """Take a sequence apart into its steps, or put one together."""
        if packet is _aten.select:
            if args[1] != 0 or not isinstance(args[0], list):
                raise UnknownOperation(f"{node.target} along another dimension than time")
            return args[0][args[2]]
        if packet in (_aten.unbind, _aten.stack):
            if (args[1] if len(args) > 1 else 0) != 0:
                raise UnknownOperation(f"{node.target} along another dimension than time")
            return args[0]
        return args[0][args[1]]

    def in_place(self, name: str, node: Node) -> Any:
        """Run an operation that overwrites its first argument as the one that returns anew."""
        old = node.args[0]
        if old in self.places or not hasattr(_aten, name[:-1]):
            raise UnknownOperation(f"{node.target} on an argument")
        args = [self.of(arg) for arg in node.args]
        made = self.pointwise(getattr(_aten, name[:-1]), node, args)
        self.values[old] = made  # type: ignore[index]
        return made

    def summed(self, node: Node, args: list[Any]) -> Any:
        """Add up the steps of a sequence."""
        sequence, dims = args[0], args[1] if len(args) > 1 else None
        if not isinstance(sequence, list) or dims != [0]:
            raise UnknownOperation(f"{node.target} along another dimension than time")
        total: Line = sequence[0]
        for step in sequence[1:]:
            total = self.line(_example(node).dtype, "add", total, step)
        return [total] if _example(node).dim() == self.dims else total

    def store(self, node: Node, value: Any) -> Any:
        """Write a sequence into an argument."""
        place = self.places[node.args[0]]  # type: ignore[index]  # else a KeyError says so
        example = _example(node)
        steps = len(example) if example.dim() == self.dims else 1
        parts = value if isinstance(value, list) else [value] * steps
        self.program.stores += [(place, step, part) for step, part in enumerate(parts)]
        return value

    def pointwise(self, packet: Any, node: Node, args: Sequence[Any]) -> Any:
        """Write lines for an operation on numbers, one for each step of its arguments."""
        dtype = _example(node).dtype
        write = self.writer(packet, node, dtype)
        steps = {len(arg) for arg in args if isinstance(arg, list)}
        if not steps:
            return write(*args)
        (length,) = steps
        return [write(*(a[t] if isinstance(a, list) else a for a in args)) for t in range(length)]

    def writer(self, packet: Any, node: Node, dtype: torch.dtype) -> Callable[..., Any]:
        """Return what writes the lines of an operation."""
        if packet is _aten._to_copy:
            return lambda x, *_: self.line(dtype, "cast", x)
        if packet is _aten.view:
            return lambda x, *_: self.line(dtype, "bits", x)
        if packet is _aten.masked_fill:
            return lambda x, mask, value: self.line(dtype, "where", mask, value, x)
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
            raise UnknownOperation(f"{node.target} with {dict(node.kwargs)}")
        if packet is _aten.rsub:
            return lambda x, y: self.line(dtype, "sub", y, x)
        if packet is _aten.clamp:
            return lambda x, low=None, high=None: self.clamped(x, low, high, dtype)
        if packet not in OPS:
            raise UnknownOperation(f"{node.target} has no expression in a kernel")
        return lambda *values: self.line(dtype, OPS[packet], *values)

    def clamped(self, value: Any, low: Any, high: Any, dtype: torch.dtype) -> Any:
        """Return a value between two bounds, either of which may be missing."""
        if low is not None:
            value = self.line(dtype, "maximum", value, low)
        return value if high is None else self.line(dtype, "minimum", value, high)


def _example(node: Node) -> Tensor:
    """Return the example that a node was traced with."""
    value = node.meta.get("val")
    while isinstance(value, list | tuple):
        value = value[0]
    return value if isinstance(value, Tensor) else torch.empty(())
