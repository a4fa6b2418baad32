"""Products of spikes in a network for direct training: gates that take each step by itself."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from spiketune.snn import Neuron, Row
from spiketune.snn.chunk import only_input
from spiketune.snn.dependencies import dependencies
from spiketune.snn.gates import And, Gate, Iand
from spiketune.snn.ops import aten
from spiketune.snn.placing import free_name, spike_carriers


def keep_products(net: GraphModule) -> list[Row]:
    """Let a neuron's spikes gate others step by step: ``x o`` is AND, ``x (1 - o)`` is IAND.

    Elsewhere a product is a function of what has arrived so far; of spikes that are trained as
    they are, it is taken in each step. What is no product of spikes stays as it was.

    Args:
        net: a graph with its neurons in place; changed in place.

    Returns:
        A row of the report for each gate.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF, read
        >>> from spiketune.snn.placing import place_neurons
        >>> class Both(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.relu(x) * (1 - torch.relu(-x))
        >>> net = read(Both(), torch.rand(2, 3))
        >>> _ = place_neurons(net, lambda low, top: IF(torch.ones(())))
        >>> [row.note for row in keep_products(net)]
        ["of each step's spikes: iand"]
    """
    rows = []
    carriers: dict[Node, bool] = {}
    for node in net.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        found = _gate(net, node)
        if found is None:
            continue
        spikes, neuron, gate = found
        if not carriers.get(spikes):  # or not any more: what a gate lets out is spikes again
            carriers = spike_carriers(net, dependencies(net.graph, net))
        if carriers[spikes]:
            path, name = str(node.meta["path"]), type(gate).__name__.lower()
            carriers[_replace(net, node, spikes, neuron, gate)] = True
            rows.append(Row(path, "mul", "gated", f"of each step's spikes: {name}"))
    return rows


def _gate(net: GraphModule, node: Node) -> tuple[Node, Node, Gate] | None:
    """Return what is gated, the neuron that gates it, and how; None for any other product."""
    first, second = node.args
    if not isinstance(first, Node) or not isinstance(second, Node):
        return None
    orders = ((first, second), (second, first))
    for spikes, other in orders:
        one_less = other.target is aten.rsub.Scalar and other.args[1:] == (1,) and not other.kwargs
        if one_less and _is_neuron(net, only_input(other)):
            return spikes, only_input(other), Iand()
    for spikes, other in orders:
        if _is_neuron(net, other):
            return spikes, other, And()
    return None


def _is_neuron(net: GraphModule, node: Node) -> bool:
    return node.op == "call_module" and isinstance(net.get_submodule(str(node.target)), Neuron)


def _replace(net: GraphModule, node: Node, spikes: Node, neuron: Node, gate: Gate) -> Node:
    path = node.meta["path"]
    target = free_name(net, f"{path}.gate" if path else "gate")  # ``and`` is a word of Python
    net.add_submodule(target, gate)
    with net.graph.inserting_before(node):
        threshold = net.graph.get_attr(f"{neuron.target}.threshold")
        threshold.meta = {"path": path, "batch": "nowhere"}
        called = net.graph.call_module(target, (spikes, neuron, threshold))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    net.graph.erase_node(node)
    return called
