"""Put delays into a network, behind the spikes that go on to another layer."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .checks import number
from .delay import Delay, Difference
from .dependencies import SIGNALS, Depends, dependencies
from .errors import SpiketuneError
from .network import SpikingNetwork
from .ops import POOLING, SCALINGS, SUMS, aten
from .placing import free_name

Sharing = Literal["layer", "channel", "neuron"]


def add_delays(
    snn: SpikingNetwork,
    *,
    start: float | tuple[float, float] = 0.0,
    per: Sharing = "channel",
    maximum: float | None = None,
    diff: Difference = "central",
) -> None:
    """Delay the spikes of every neuron but those that answer, in the network itself.

    Where a layer or a channel shares a delay, pooling may come first: the answer is the same and
    there is less to delay.

    Args:
        snn: the network.
        start: ``d`` in steps, or two bounds to draw each of them between, from torch's generator.
        per: what has a delay of its own.
        maximum: of ``d``; by default one step less than the network's, for what is sent later
            never arrives.
        diff: see ``Delay``.

    Raises:
        SpiketuneError: on delays that are negative or as long as the network's steps, bounds that
            are not two numbers in order, a network that has delays already, or one with nothing to
            delay.

    Source: Shrestha & Orchard 2018 (SLAYER).

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 20, (4,), neuron=st.SRMNeuron())
        >>> add_delays(snn, start=(0, 5), maximum=8)
        >>> [list(unit.delay.shape) for unit in snn.modules() if isinstance(unit, Delay)]
        [[8]]
    """
    if per not in get_args(Sharing):
        raise SpiketuneError(f"per must be {', '.join(get_args(Sharing))}, not {per!r}")
    low, high = _bounds(start)
    maximum = snn.steps - 1 if maximum is None else maximum
    Delay(0.0, maximum=maximum, diff=diff)  # what is bad is to leave the network as it was
    if maximum >= snn.steps:
        raise SpiketuneError(
            f"delays of up to {maximum:g} steps in a network of {snn.steps}: what is sent so late "
            f"never arrives; give a maximum of {snn.steps - 1} or less, or more steps"
        )
    for bound in (low, high):
        Delay(bound, maximum=maximum)
    if any(isinstance(unit, Delay) for unit in snn.modules()):
        raise SpiketuneError("the network has delays already; build it again for others")
    places, shapes = _places(snn, per), snn.shapes()
    if not places:
        raise SpiketuneError("no neuron's spikes go on to another layer; there is nothing to delay")
    for source in places:
        drawn = torch.empty(_shared(per, shapes[source][1:])).uniform_(low, high)
        _put_behind(snn, source, Delay(drawn, maximum=maximum, diff=diff))
    snn.net = GraphModule(snn.net, snn.net.graph)
    snn.refresh()


def _bounds(start: float | tuple[float, float]) -> tuple[float, float]:
    """Return what to draw delays between; a configuration file has lists."""
    bounds = tuple(start) if isinstance(start, tuple | list) else (start, start)
    if len(bounds) != 2 or not all(map(number, bounds)) or bounds[0] > bounds[1]:
        raise SpiketuneError(
            f"start must be a number of steps, or two with the smaller first, not {start!r}; give "
            "0, or (0, 8) to draw them"
        )
    return bounds


def _places(snn: SpikingNetwork, per: Sharing) -> list[Node]:
    """Return what is to be delayed: neurons, or the pools behind them, if more follows."""
    depends = dependencies(snn.net.graph, snn.net)
    shapes = snn.shapes()
    found = []
    for neuron, _ in snn.neuron_nodes():
        end = neuron if per == "neuron" else _end_of_pool(neuron, depends, shapes)
        if any(user.op != "output" for user in end.users):
            found.append(end)
    return found


def _end_of_pool(
    neuron: Node, depends: dict[Node, Depends], shapes: dict[Node, tuple[int, ...]]
) -> Node:
    """Return the one value through which all that a neuron sends leaves its pool."""
    inside = {neuron}
    for node in neuron.graph.nodes:
        signals = {n for n in node.all_input_nodes if depends[n] in SIGNALS}
        alike = _keeps_channels(node) and _alike(shapes[node], shapes[neuron])
        if signals and signals <= inside and alike:
            inside.add(node)
    ends = [node for node in inside if any(user not in inside for user in node.users)]
    return ends[0] if len(ends) == 1 else neuron


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two values have the same channels and as many dimensions."""
    return one[:2] == other[:2] and len(one) == len(other)


def _keeps_channels(node: Node) -> bool:
    """Whether a node does the same to every channel of an image, linearly and without a bias."""
    if node.target is aten.slice.Tensor:
        return len(node.args) > 1 and node.args[1] in (2, 3)
    if node.target in SUMS:
        return all(isinstance(arg, Node) for arg in node.args)
    plain = len(node.args) > 1 and not isinstance(node.args[1], Node)
    return node.target in POOLING or (node.target in SCALINGS and plain)


def _shared(per: Sharing, sample: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the delays of one layer."""
    return {
        "layer": (),
        "channel": (*sample[:1], *[1] * (len(sample) - 1)),
        "neuron": tuple(sample),
    }[per]


def _put_behind(snn: SpikingNetwork, source: Node, delay: Delay) -> None:
    like: Tensor = next(neuron.threshold for _, neuron in snn.neurons())
    path = str(source.meta.get("path", ""))
    target = free_name(snn.net, f"{path}.delay" if path else "delay")
    snn.net.add_submodule(target, delay.to(like).train(snn.training))
    with snn.net.graph.inserting_after(source):
        called = snn.net.graph.call_module(target, (source,))
    called.meta = dict(source.meta)
    source.replace_all_uses_with(called, delete_user_cb=lambda user: user is not called)
