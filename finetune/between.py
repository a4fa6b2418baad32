"""What lies between the neurons of a network: whether traces pass it, how many inputs it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import TypeVar

from torch.fx import Node

from spiketune.snn import IF, LIF, Lateral, SoftReset, SpikingNetwork
from spiketune.snn.dependencies import is_linear
from spiketune.snn.ops import WEIGHTED
from spiketune.snn.program import fetch

from .errors import TuneError
from .rest import Scale

N = TypeVar("N", int, float)


def common_leak(snn: SpikingNetwork, rule: str) -> float:
    """Return the one ``λ`` of all neurons, 1 for IF.

    Args:
        snn: the network.
        rule: its name, for messages.

    Raises:
        TuneError: on other neurons than IF, LIF and Lateral, hard resets, or several leaks.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> common_leak(st.twin(ann, 4, (4,), leak=0.5), "Lee")
        0.5
    """
    leaks: dict[float, str] = {}
    for name, neuron in snn.neurons():
        if type(neuron) not in (IF, LIF, Lateral):
            raise TuneError(
                f"{name}: {rule} trains IF, LIF and Lateral neurons, not {type(neuron).__name__}; "
                "build the network with neuron=LateralNeuron(), PlainNeuron() or LeakyNeuron(), "
                "or tune with SurrogateBPTT()"
            )
        if not isinstance(neuron.firing.reset, SoftReset):
            raise TuneError(
                f"{name}: a hard reset loses what is above the threshold, and no trace tells how "
                "much; build the network with soft resets, or tune with SurrogateBPTT()"
            )
        held = neuron.leak.flatten().tolist() if isinstance(neuron, LIF | Lateral) else [1.0]
        leaks.update(dict.fromkeys(held, name))
    if len(leaks) > 1:
        told = " and ".join(f"{leak:g} ({name})" for leak, name in leaks.items())
        raise TuneError(f"{rule} needs one leak for all neurons, not {told}; build it with one")
    return next(iter(leaks))


def require_linear(snn: SpikingNetwork, rule: str) -> None:
    """Refuse what changes a trace between neurons in another way than weights and means do.

    Raises:
        TuneError: naming it, and the remedy.
    """
    program = snn.program
    for node in program.body:
        module = node.op == "call_module" and not program.is_unit(node)
        if module or (node.op == "call_function" and not is_linear(node, program.depends)):
            what = type(program.unit(node)).__name__ if module else str(node.target)
            raise TuneError(
                f"{node.name}: {what} is not linear in each step's spikes, so {rule}'s traces do "
                "not pass it; build the network of convolutions, linear layers and mean pooling, "
                "or tune with SurrogateBPTT()"
            )


def last_neurons(snn: SpikingNetwork) -> set[str]:
    """Return the names of neurons whose spikes meet no weights: the answer is theirs.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(),
        ...                           torch.nn.Linear(3, 2), torch.nn.ReLU())
        >>> last_neurons(st.twin(ann, 4, (4,)))
        {'_3_relu'}
    """
    return {
        node.name
        for node, _ in snn.neuron_nodes()
        if not _found(node, lambda n: n.users, _has_weights)
    }


def scales(snn: SpikingNetwork) -> dict[str, Scale]:
    """Return for each neuron's name how Lee et al. scale its gradients.

    Raises:
        TuneError: where a layer of neurons has several layers of weights before it, or spikes go
            to layers that scale differently.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(),
        ...                           torch.nn.Linear(9, 2), torch.nn.ReLU())
        >>> [scale.inputs for scale in scales(st.twin(ann, 4, (4,))).values()]
        [4, 9]
    """
    shapes, nodes = snn.shapes(), [node for node, _ in snn.neuron_nodes()]
    sizes: dict[Node, tuple[int, int]] = {}
    for node in nodes:
        inputs = {_inputs(snn, n) for n in _found(node, lambda n: n.all_input_nodes, _has_weights)}
        sizes[node] = (_one(node, inputs), prod(shapes[node][1:]))
    found = {}
    for node in nodes:
        after = _found(node, lambda n: n.users, lambda n: n in sizes)
        ratios = {(sizes[n][1] / sizes[n][0]) ** 0.5 for n in after} or {1.0}
        size, count = sizes[node]
        found[node.name] = Scale(inputs=size, neurons=count, behind=_one(node, ratios))
    return found


def _one(node: Node, found: set[N]) -> N:
    if len(found) != 1:
        raise TuneError(
            f"{node.name}: scale='paper' is for layers one behind the other, each with weights, "
            f"and there are {len(found)} different ones beside this; give Lee(scale='none')"
        )
    return next(iter(found))


def _has_weights(node: Node) -> bool:
    return node.target in WEIGHTED


def _inputs(snn: SpikingNetwork, node: Node) -> int:
    holder = node.args[WEIGHTED[node.target][0]]
    assert isinstance(holder, Node)
    return fetch(snn.net, holder)[0].numel()


def _found(
    start: Node, ahead: Callable[[Node], Iterable[Node]], wanted: Callable[[Node], bool]
) -> set[Node]:
    """Return the first nodes of a kind on every way from one node on."""
    found, seen, rest = set[Node](), {start}, list(ahead(start))
    while rest:
        node = rest.pop()
        if node in seen:
            continue
        seen.add(node)
        if wanted(node):
            found.add(node)
        else:
            rest += ahead(node)
    return found
