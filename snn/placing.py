"""Put neurons into a graph, one for each call of an activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.fx import GraphModule, Node

from .chunk import only_input
from .dependencies import SIGNALS, Depends, dependencies, is_linear
from .gates import MOMENTARY
from .neurons import Neuron, Temporal
from .ops import ACTIVATIONS, MATRIX_PRODUCTS, PASSING, SCALINGS, WEIGHTED
from .poisson import Poisson
from .report import Row

Make = Callable[[float | None, float | None], Neuron | None]


def place_neurons(net: GraphModule, make: Make) -> list[Row]:
    """Replace each ReLU-like activation by a neuron, and return the report's rows.

    Args:
        net: a graph from ``read``; changed in place.
        make: returns the neuron for ``clamp(x, floor, ceiling)``, or None where it has none and
            the activation is to stay a function.

    Returns:
        A row for each neuron.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF, read
        >>> net = read(nn.Sequential(nn.ReLU(), nn.ReLU6()), torch.rand(2, 3))
        >>> made = place_neurons(net, lambda low, top: IF(torch.ones(()), floor=low, ceiling=top))
        >>> [row.note for row in made]
        ['0.relu', '1.hardtanh']
    """
    rows = []
    for node in list(net.graph.nodes):
        if node.op != "call_function" or node.target not in ACTIVATIONS:
            continue
        name, path = str(node.target).split(".")[1], node.meta["path"]
        # One number an image leaves a neuron nothing to spread its thresholds over.
        tiny = node.meta["shape"] is None or len(node.meta["shape"]) < 2
        neuron = None if tiny else make(*ACTIVATIONS[node.target](node))
        if neuron is not None:
            rows.append(Row(path, name, "neuron", replace_by_module(net, node, name, neuron)))
    return rows


def place_encoders(net: GraphModule, make: Make) -> list[Row]:
    """Put a signed neuron in front of each weight and matrix product that no spikes reach.

    What sees the image through no weight before stays as it is: the stem, computed once.

    Args:
        net: a graph with its other neurons in place; changed in place.
        make: returns the neuron for a value without bounds.

    Returns:
        A row for each neuron.

    Example:
        >>> import torch
        >>> from spiketune.snn import Graded, read
        >>> ann = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
        >>> net = read(ann, torch.rand(2, 3))
        >>> place_encoders(net, lambda low, top: Graded(torch.ones(()), floor=low))[0].note
        '1.encoder'
    """
    rows: list[Row] = []
    depends = dependencies(net.graph, net)
    spiking = spike_carriers(net, depends)
    weighed: dict[Node, bool] = {}
    encoders: dict[Node, Node] = {}
    for node in list(net.graph.nodes):
        sees = [n for n in node.all_input_nodes if depends[n] in SIGNALS]
        product = node.target in MATRIX_PRODUCTS
        weighed[node] = product or node.target in WEIGHTED or any(weighed[n] for n in sees)
        if depends[node] not in SIGNALS or not (product or node.target in WEIGHTED):
            continue
        for source, user in [_before_scalings(source, node, depends) for source in sees]:
            if spiking.get(source) or not weighed[source]:
                continue
            if source not in encoders:
                neuron = make(None, None)
                if neuron is None:
                    return rows
                encoders[source] = _encode(net, source, neuron)
                path = source.meta.get("path", "")
                rows.append(Row(path, "signal", "neuron", str(encoders[source].target)))
            user.replace_input_with(source, encoders[source])
    return rows


def _before_scalings(source: Node, user: Node, depends: dict[Node, Depends]) -> tuple[Node, Node]:
    """Return where spikes begin: before constant factors, which spikes may pass."""
    while (
        source.target in SCALINGS and is_linear(source, depends) and len(source.users) == 1
        and source.args[0] in source.all_input_nodes and depends[only_input(source)] in SIGNALS
    ):  # fmt: skip
        source, user = only_input(source), source
    return source, user


def _encode(net: GraphModule, source: Node, neuron: Neuron) -> Node:
    path = source.meta.get("path", "")
    target = free_name(net, f"{path}.encoder" if path else "encoder")
    net.add_submodule(target, neuron)
    with net.graph.inserting_after(source):
        called = net.graph.call_module(target, (source,))
    called.meta = dict(source.meta)
    return called


def put_poisson(net: GraphModule, unit: Poisson) -> Row:
    """Turn the image into spikes before anything else sees it, and return the report's row."""
    put_first(net, unit, "input_spikes")
    return Row("", "image", "neuron", "Poisson spikes")


def put_first(net: GraphModule, unit: Temporal, name: str) -> None:
    """Let a unit see the image before anything else, and everything else what it sends."""
    image = net.graph.find_nodes(op="placeholder")[0]
    target = free_name(net, name)
    # In the network's own mode: in training it would draw anew while thresholds are balanced.
    net.add_submodule(target, unit.train(net.training))
    with net.graph.inserting_after(image):
        called = net.graph.call_module(target, (image,))
    called.meta = dict(image.meta)
    image.replace_all_uses_with(called, delete_user_cb=lambda user: user is not called)


def spike_carriers(net: GraphModule, depends: dict[Node, Depends]) -> dict[Node, bool]:
    """Return for each node whether nothing but spikes, added, moved or scaled, makes it up.

    Example:
        >>> import torch
        >>> from spiketune.snn import read
        >>> net = read(nn.ReLU(), torch.rand(2, 3))
        >>> any(spike_carriers(net, dependencies(net.graph, net)).values())
        False
    """
    carries: dict[Node, bool] = {}
    for node in net.graph.nodes:
        unit = net.get_submodule(node.target) if node.op == "call_module" else None
        signals = [n for n in node.all_input_nodes if depends[n] in SIGNALS]
        passes = node.target in PASSING and is_linear(node, depends)
        source = isinstance(unit, Temporal) and unit.sends_spikes
        passes |= isinstance(unit, MOMENTARY) or (isinstance(unit, Temporal) and unit.relays)
        through = bool(signals) and passes and all(carries[n] for n in signals)
        carries[node] = source or through
    return carries


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
