"""Put neurons into a graph, one for each call of an activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.fx import GraphModule, Node

from .neurons import Neuron
from .ops import ACTIVATIONS
from .report import Row


def place_neurons(net: GraphModule, make: Callable[[float | None], Neuron]) -> list[Row]:
    """Replace each ReLU-like activation by a neuron, and return the report's rows.

    Args:
        net: a graph from ``read``; changed in place.
        make: returns the neuron for an activation with that ceiling (None for ReLU).

    Returns:
        A row for each activation, ``refused`` where its clamp is not from zero.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF, read
        >>> net = read(nn.Sequential(nn.ReLU(), nn.ReLU6()), torch.rand(2, 3))
        >>> [row.note for row in place_neurons(net, lambda top: IF(torch.ones(()), ceiling=top))]
        ['0.relu', '1.hardtanh']
    """
    rows = []
    for node in list(net.graph.nodes):
        if node.op != "call_function" or node.target not in ACTIVATIONS:
            continue
        name = str(node.target).split(".")[1]
        path = node.meta["path"]
        try:
            ceiling = ACTIVATIONS[node.target](node)
        except LookupError as error:
            rows.append(Row(path, name, "refused", f"{error.args[0]}; use ReLU or ReLU6"))
            continue
        if node.meta["shape"] is None or len(node.meta["shape"]) < 2:
            rows.append(Row(path, name, "refused", "one number an image; give it a dimension more"))
            continue
        target = replace_by_module(net, node, name, make(ceiling))
        rows.append(Row(path, name, "neuron", target))
    return rows


def replace_by_module(net: GraphModule, node: Node, name: str, unit: nn.Module) -> str:
    """Let ``unit`` compute what ``node`` did of its first argument, and return where it lies.

    Its path is that of the module the node came from, with ``name`` at the end.
    """
    path = node.meta["path"]
    target = free_name(net, f"{path}.{name}" if path else name)
    net.add_submodule(target, unit)
    with net.graph.inserting_before(node):
        called = net.graph.call_module(target, (node.args[0],))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    net.graph.erase_node(node)
    return target


def existing(net: GraphModule, path: str) -> nn.Module:
    """Return the module at ``path``, a new empty one where there is none."""
    try:
        return net.get_submodule(path)
    except AttributeError:
        return nn.Module()


def free_name(net: GraphModule, path: str) -> str:
    """Return ``path``, numbered if a module or parameter has that name already."""
    owner, _, leaf = path.rpartition(".")
    holder = existing(net, owner)
    name, count = leaf, 1
    while hasattr(holder, name):
        count += 1
        name = f"{leaf}_{count}"
    return f"{owner}.{name}" if owner else name
