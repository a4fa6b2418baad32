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
from torch.utils.flop_counter import FlopCounterMode

from .chunk import Values, only_input, size_of
from .dependencies import SIGNALS, Depends, dependencies, is_linear
from .gates import MOMENTARY
from .network import SpikingNetwork
from .neurons import Neuron, Temporal
from .ops import MATRIX_PRODUCTS, POOLING, SCALINGS, SUMS, WEIGHTED, aten
from .placing import spike_carriers
from .program import fetch
from .report import Row
from .single_spike.runs import refuse_times
from .sum_pool import sum_pool


@dataclass(frozen=True)
class Costs:
    """What one image costs, apart from the spikes that are measured while running.

    Attributes:
        fan_out: accumulates that one spike causes, ``[...]`` for each source of spikes.
        neurons: number of neurons.
        stem_macs: multiply-accumulates once an image.
        dense_macs: multiply-accumulates at every step, those of the neurons themselves included.
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
    refuse_times(snn, "whose costs are those of a run; see sweep()")
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
        like = next(iter(snn.parameters()), torch.empty(()))
        self.like = like.new_empty((), dtype=torch.promote_types(like.dtype, torch.float32))
        self.values: Values = {}
        self.sources: dict[str, Tensor] = {}
        self.total = torch.zeros((), device=self.like.device)
        self.becomes: dict[str, tuple[str, int]] = {}
        self.neurons = self.updates = 0

    def count(self) -> Costs:
        with torch.enable_grad(), torch.autocast(self.like.device.type, enabled=False):
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
        dense = macs["dense"] + macs["function"] + self.updates
        return Costs(fan_out, self.neurons, macs["stem"], dense, sum(macs.values()), self.becomes)

    def _visit(self, node: Node) -> None:
        unit = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "call_function" and self.depends[node] in SIGNALS:
            self._operation(node)
        elif isinstance(unit, Temporal) and unit.relays:
            self.values[node] = self._value(node.args[0])
        elif isinstance(unit, Temporal):
            self.total = self.total + self._value(node.args[0]).sum()
            self.updates += prod(self.shapes[node]) * unit.macs
            if isinstance(unit, Neuron):
                self.neurons += prod(self.shapes[node])
            if unit.sends_spikes:
                self._source(node)
            if isinstance(unit, Neuron) and unit.own_fan_out is not None:
                self.total = self.total + (self.sources[node.name] * unit.own_fan_out).sum()
        elif isinstance(unit, MOMENTARY) and self.spiking[node]:
            self._source(node)  # which spikes pass is known only while running

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
            products = self._macs(node) if node.target in _PRODUCTS_WITHIN else 0
            self._note(node, "function", _values(self.shapes[node]) + products)
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
        for source in signals:
            if source not in dense:
                self.total = self.total + self._on_ones(node, source).sum()
        self._note(node, "dense" if dense else "linear", self._macs(node))

    def _on_ones(self, node: Node, spikes: Node | None = None) -> Tensor:
        """Run an operation on ones, and on the spikes that come from one of its inputs."""

        def value(n: Node) -> Any:
            if self.depends[n] == Depends.SIZES:
                return size_of(n, 1)
            if n is spikes:
                return self._value(n)
            return self._zeros(self.shapes[n]).to(_dtype(n, self.like.dtype)) + 1

        assert callable(node.target)
        out: Tensor = node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
        return out

    def _macs(self, node: Node) -> int:
        """Return the multiply-accumulates of an operation as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            self._on_ones(node)
        return int(counter.get_total_flops()) // 2

    def _weighted(self, node: Node) -> None:
        """Count weights that are not zero and borders as they are, for spikes and values alike."""
        source = only_input(node)
        kind = "linear" if self.spiking[source] else "dense"
        indicator = _summed(node, self._weight(node) != 0, self.shapes[source]).to(self.like.dtype)
        place, bias = WEIGHTED[node.target]

        def met(values: Tensor) -> Tensor:
            args = list(node.args)
            args[0], args[place] = values, indicator
            args[bias : bias + 1] = [None] if len(args) > bias else []
            assert callable(node.target)
            out: Tensor = node.target(*args, **node.kwargs)
            return out.sum()

        if kind == "linear":
            self.total = self.total + met(self._value(source))
        with torch.no_grad():
            # In double: a sum of many ones is not exact in single precision.
            indicator = indicator.double()
            self._note(node, kind, round(met(self._zeros(self.shapes[source]).double() + 1).item()))

    def _weight(self, node: Node) -> Tensor:
        holder = node.args[WEIGHTED[node.target][0]]
        assert isinstance(holder, Node)
        if holder.op == "get_attr":
            return fetch(self.net, holder).detach()
        # Computed from parameters, as by weight standardisation: never exactly zero.
        return torch.ones(self.shapes[holder], device=self.like.device)

    def _source(self, node: Node) -> None:
        leaf = self._zeros(self.shapes[node]).requires_grad_()
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
            return sum(arg for arg in args if isinstance(arg, Tensor))
        if node.target in SCALINGS:
            signals = [n for n in node.all_input_nodes if self.depends[n] == Depends.TIME]
            # A factor larger than the value spreads each spike over its own places.
            return self._value(signals[0]).expand(self.shapes[node])
        if node.target in POOLING:
            return sum_pool(node, args)
        return node.target(*args, **map_arg(node.kwargs, self._value))


# Functions that multiply matrices inside, among them layers with weights computed from the image.
_PRODUCTS_WITHIN = {
    *WEIGHTED, aten.baddbmm.default, aten.scaled_dot_product_attention.default,
}  # fmt: skip


def _summed(node: Node, met: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return weights for one output a group, which are few: outputs are summed anyway."""
    if met.dim() == 1 or node.target is aten.conv_transpose2d.input:
        return met
    groups = shape[1 - met.dim()] // met.shape[1]
    return met.reshape(groups, -1, *met.shape[1:]).sum(1, dtype=torch.int32)


def _dtype(node: Node, default: torch.dtype) -> torch.dtype:
    """Return a value's own type where it is not a floating point number."""
    dtype: torch.dtype = getattr(torch, node.meta.get("dtype", "float32").removeprefix("torch."))
    return default if dtype.is_floating_point else dtype


def _values(shape: Any) -> int:
    """Return how many values a tensor holds, or the parts of a tuple together."""
    parts = bool(shape) and isinstance(shape[0], tuple)
    return sum(_values(part) for part in shape) if parts else prod(shape)


def _of_image(fan_out: Tensor) -> Tensor:
    """Return ``[...]`` of one image; ``[k, ...]`` where a reshape made k rows of each image."""
    return fan_out[0] if len(fan_out) == 1 else fan_out
