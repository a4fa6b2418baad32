"""Count what a network does: spikes, accumulates, multiply-accumulates.

Operations are counted as on the folded network. A spike that reaches a weight costs one
accumulate (AC) for each weight it meets, or for each value of the other side in a matrix product;
what is fed by anything but spikes costs one multiply-accumulate (MAC) a weight: once an image in
the stem, at every step elsewhere. A function, such as GELU, softmax or a gate's product, counts
as one MAC for each value that it gives: dense work, at every step.

Between a neuron and the weights that follow everything is linear, so the number of weights that
one spike meets, its fan-out ``F_i``, is a fixed map, and ``AC(t) = Σ_i |s_i(t)| F_i``. The map is
the gradient of the network's sum with every weight replaced by ``1[w != 0]``: borders, strides,
groups, pooling, residual additions and pruned weights are counted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn import MaxPool2d
from torch.utils.flop_counter import FlopCounterMode

from .chunk import Values, only_input, size_of
from .dependencies import SIGNALS, Depends, dependencies, is_linear
from .network import SpikingNetwork
from .neurons import Neuron, Temporal
from .ops import MATRIX_PRODUCTS, POOLING, SCALINGS, SUMS, WEIGHTED, aten
from .placing import spike_carriers
from .poisson import Poisson
from .program import fetch
from .report import Row


@dataclass(frozen=True)
class Costs:
    """What one image costs, apart from the spikes that are measured while running.

    Attributes:
        fan_out: accumulates that one spike causes, ``[...]`` for each source of spikes.
        neurons: number of neurons.
        stem_macs: multiply-accumulates once an image.
        dense_macs: multiply-accumulates at every step.
        ann_macs: multiply-accumulates of the same graph as an ANN.
        becomes: for each operation ``stem``, ``dense``, ``function`` or ``linear``, and its MACs.

    Example:
        >>> Costs({}, 4, 10, 0, 30, {}).ann_macs
        30
    """

    fan_out: dict[str, Tensor]
    neurons: int
    stem_macs: int
    dense_macs: int
    ann_macs: int
    becomes: dict[str, tuple[str, int]]


def costs(snn: SpikingNetwork) -> Costs:
    """Return the fixed costs of a network at its own image size.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3)).eval()
        >>> found = costs(st.to_snn(ann, torch.rand(16, 1, 2, 2), st.Ternary(steps=8)))
        >>> found.stem_macs, found.ann_macs, next(iter(found.fan_out.values())).unique().tolist()
        (32, 56, [3.0])
    """
    return _Counter(snn).count()


def operation_rows(snn: SpikingNetwork) -> tuple[Row, ...]:
    """Return a row of the report for each operation: fed by spikes, dense, function, or stem.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        >>> [row.became for row in operation_rows(st.to_snn(ann, torch.rand(9, 4), st.Binary()))]
        ['stem']
    """
    notes = {
        "stem": "computed once an image",
        "dense": "fed by values that are no spikes",
        "function": "of what has arrived, at every step",
        "linear": "fed by spikes",
    }
    paths = {node.name: node.meta.get("path", "") for node in snn.net.graph.nodes}
    return tuple(
        Row(paths[name], name.rstrip("_0123456789"), kind, notes[kind], macs)
        for name, (kind, macs) in costs(snn).becomes.items()
    )


class _Counter:
    """One walk over the graph with indicator weights; see the module's docstring."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.net = snn.net
        self.depends = dependencies(snn.net.graph, snn.net)
        self.spiking = spike_carriers(snn.net, self.depends)
        self.shapes = snn.shapes()
        self.like = next(iter(snn.parameters()), torch.empty(()))
        self.values: Values = {}
        self.sources: dict[str, Tensor] = {}
        self.total = torch.zeros((), device=self.like.device)
        self.becomes: dict[str, tuple[str, int]] = {}
        self.neurons = 0

    def count(self) -> Costs:
        with torch.enable_grad():
            for node in self.net.graph.nodes:
                self._visit(node)
            leaves = list(self.sources.values())
            grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
            if self.total.requires_grad:
                grads = torch.autograd.grad(self.total, leaves, allow_unused=True)
        fan_out = {
            name: _of_image(torch.zeros_like(leaf) if grad is None else grad.detach())
            for (name, leaf), grad in zip(self.sources.items(), grads, strict=True)
        }
        macs = {kind: 0 for kind in ("stem", "dense", "function", "linear")}
        for kind, count in self.becomes.values():
            macs[kind] += count
        dense = macs["dense"] + macs["function"]
        return Costs(fan_out, self.neurons, macs["stem"], dense, sum(macs.values()), self.becomes)

    def _visit(self, node: Node) -> None:
        unit = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "call_function" and self.depends[node] in SIGNALS:
            self._operation(node)
        elif isinstance(unit, Temporal):
            self.total = self.total + self._value(node.args[0]).sum()
            if isinstance(unit, Neuron):
                self.neurons += prod(self.shapes[node])
            if isinstance(unit, Neuron | Poisson):
                self._source(node)
        elif isinstance(unit, MaxPool2d) and self.spiking[node]:
            self._source(node)  # which spike is the greatest is known only while running

    def _operation(self, node: Node) -> None:
        linear = is_linear(node, self.depends)
        if node.target in WEIGHTED and linear:
            self._weighted(node)
        elif node.target in MATRIX_PRODUCTS:
            self._product(node)
        elif not linear:
            for source in node.all_input_nodes:
                if source in self.values:  # each spike that arrives is added to a sum
                    self.total = self.total + self._value(source).sum()
            self._note(node, "function", _values(self.shapes[node]))
        elif self.depends[node] == Depends.TIME:
            if node.target in SCALINGS and not self.spiking[node]:
                self._note(node, "dense", prod(self.shapes[node]))
            if any(n in self.values for n in node.all_input_nodes):
                self.values[node] = self._pass_on(node)

    def _note(self, node: Node, kind: str, macs: int) -> None:
        stem = self.depends[node] == Depends.IMAGE
        self.becomes[node.name] = ("stem" if stem else kind, macs)

    def _product(self, node: Node) -> None:
        """Count a matrix product: what comes as spikes meets every value of the other side."""
        signals = [n for n in node.all_input_nodes if self.depends[n] in SIGNALS]
        dense = [n for n in signals if not self.spiking[n]]

        def run(spikes: Node | None) -> Tensor:
            def value(n: Node) -> Any:
                if self.depends[n] == Depends.SIZES:
                    return size_of(n, 1)
                return self._value(n) if n is spikes else self._zeros(self.shapes[n]) + 1

            assert callable(node.target)
            out: Tensor = node.target(*map_arg(node.args, value), **node.kwargs)
            return out

        with FlopCounterMode(display=False) as counter:
            run(None)
        for source in signals:
            if source not in dense:
                self.total = self.total + run(source).sum()
        self._note(node, "dense" if dense else "linear", counter.get_total_flops() // 2)

    def _weighted(self, node: Node) -> None:
        weight = self._weight(node)
        fan_in = weight.numel() // weight.shape[0]
        outputs = prod(self.shapes[node])
        if node.target is aten.conv_transpose2d.input:
            outputs = prod(self.shapes[only_input(node)])
        source = only_input(node)
        kind = "linear" if self.spiking[source] else "dense"
        if kind == "linear":
            indicator = (weight != 0).to(self.like.dtype)
            place, bias = WEIGHTED[node.target]
            args = list(node.args)
            args[0], args[place] = self._value(source), indicator
            args[bias : bias + 1] = [None] if len(args) > bias else []
            assert callable(node.target)
            self.total = self.total + node.target(*args, **node.kwargs).sum()
        self._note(node, kind, outputs * fan_in)

    def _weight(self, node: Node) -> Tensor:
        holder = node.args[WEIGHTED[node.target][0]]
        assert isinstance(holder, Node)
        if holder.op == "get_attr":
            return fetch(self.net, holder).detach()
        # Computed from parameters, as by weight standardisation: never exactly zero.
        return torch.ones(self.shapes[holder], device=self.like.device)

    def _source(self, node: Node) -> None:
        leaf = torch.zeros(
            self.shapes[node], device=self.like.device, dtype=self.like.dtype, requires_grad=True
        )
        self.sources[node.name] = self.values[node] = leaf

    def _value(self, node: Any) -> Any:
        """Return the part of a value that spikes make up; of anything else, nothing."""
        if not isinstance(node, Node):
            return node
        if self.depends[node] == Depends.SIZES:
            return size_of(node, 1)
        if node in self.values:
            return self.values[node]
        if node.op == "get_attr" and not fetch(self.net, node).is_floating_point():
            return fetch(self.net, node)  # says where values go
        return self._zeros(self.shapes[node])

    def _zeros(self, shape: Any) -> Any:
        """Return zeros for a shape, a list of them for the parts of a split."""
        if shape and isinstance(shape[0], tuple):
            return [self._zeros(part) for part in shape]
        return torch.zeros(shape, device=self.like.device, dtype=self.like.dtype)

    def _pass_on(self, node: Node) -> Any:
        """Run a linear operation so that each spike that passes still counts as one."""
        args: tuple[Any, ...] = tuple(map_arg(node.args, self._value))
        assert callable(node.target)
        if node.target in SUMS:
            terms = [arg for arg in args if isinstance(arg, Tensor)]
            return sum(terms[1:], terms[0])
        if node.target in SCALINGS:
            signals = [n for n in node.all_input_nodes if self.depends[n] == Depends.TIME]
            return self._value(signals[0])
        if node.target in POOLING:
            return _sum_pool(node, args)
        return node.target(*args, **map_arg(node.kwargs, self._value))


def _values(shape: Any) -> int:
    """Return how many values a tensor holds, or the parts of a tuple together."""
    parts = bool(shape) and isinstance(shape[0], tuple)
    return sum(_values(part) for part in shape) if parts else prod(shape)


def _of_image(fan_out: Tensor) -> Tensor:
    """Return ``[...]`` of one image; ``[k, ...]`` where a reshape made k rows of each image."""
    return fan_out[0] if len(fan_out) == 1 else fan_out


def _sum_pool(node: Node, args: tuple[Any, ...]) -> Tensor:
    """Run a pooling node so that it sums its windows, whatever it averages over."""
    x: Tensor = args[0]
    assert callable(node.target)
    if node.target is aten.avg_pool2d.default:
        given = [*args, *[[], 0, False, True][len(args) - 2 :]]
        summed: Tensor = aten.avg_pool2d.default(*given[:6], divisor_override=1)
        return summed
    if node.target is aten.avg_pool1d.default:  # the same window in a plane one pixel high
        window = [[1, *args[1]], [1, *(args[2] if len(args) > 2 else args[1])]]
        rest = [[0, *args[3]], *args[4:6]] if len(args) > 3 else []
        given = [x.unsqueeze(-2), *window, *[*rest, *[[0, 0], False, True][len(rest) :]]]
        summed = aten.avg_pool2d.default(*given, divisor_override=1).squeeze(-2)
        return summed
    pooled: Tensor = node.target(*args, **node.kwargs)
    if node.target is aten.sum.dim_IntList:
        return pooled
    if node.target is aten.mean.dim:
        return pooled * (x.numel() / pooled.numel())
    # Windows of an adaptive pool differ in size: from floor(i n/m) to ceil((i + 1) n/m).
    spatial = pooled.dim() - 2
    for dim in range(-spatial, 0):
        n, m = x.shape[dim], pooled.shape[dim]
        sizes = [-(-(i + 1) * n // m) - i * n // m for i in range(m)]
        shape = [m if d == dim else 1 for d in range(-spatial, 0)]
        pooled = pooled * pooled.new_tensor(sizes).view(shape)
    return pooled
