"""Where traces of past input say what a weight has done to a membrane, and by which leak they fade.

A current that reaches a membrane of leak ``λ`` through linear operations only is still in it after
``k`` steps, ``λ^k`` of it, if the reset is left out. A weight in front of several neurons has one
trace if they all leak alike; anything else in between, or behind the weight, is refused by name.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from torch.fx import Node

from spiketune.snn import Neuron, Program, SoftReset
from spiketune.snn.dependencies import Depends, is_linear
from spiketune.snn.ops import WEIGHTED
from spiketune.snn.program import fetch

from .errors import TuneError


class Leaks(NamedTuple):
    """By which leak traces fade; what leads to the answer alone needs none and is left out.

    Attributes:
        stem: of values that enter from the stem and hold trained weights.
        weights: of the nodes after the first neuron with trained weights.
    """

    stem: dict[Node, float]
    weights: dict[Node, float]


def leaks(program: Program, root: nn.Module) -> Leaks:
    """Return the leaks of the membranes that trained weights lead to.

    Args:
        program: the graph.
        root: holds its parameters.

    Raises:
        TuneError: naming the node that no trace can be kept for, or that it leads to.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        >>> snn = st.twin(ann, 4, (4,), leak=0.5)
        >>> list(leaks(snn.program, snn.net).weights.values())
        [0.5]
    """
    trained = _trained(program, root)
    found = Leaks({}, {})
    for node in program.body:
        _require_traceable(program, node, trained)
    for node in program.body:
        for source in node.all_input_nodes:
            if source in trained and program.depends[source] == Depends.IMAGE:
                _enter(found.stem, program, source)
        if any(source in trained for source in _weights(program, node)):
            _enter(found.weights, program, node)
    return found


def _enter(found: dict[Node, float], program: Program, node: Node) -> None:
    leak = _leak_ahead(program, node)
    if leak is not None:
        found[node] = leak


def _trained(program: Program, root: nn.Module) -> set[Node]:
    """Return the nodes in front of the first neurons whose values move with trained weights."""
    trained: set[Node] = set()
    for node in program.nodes:
        if program.depends[node] == Depends.TIME:
            continue
        own = node.op == "get_attr" and fetch(root, node).requires_grad
        module = node.op == "call_module" and _trains(program.unit(node))
        if own or module or any(source in trained for source in node.all_input_nodes):
            trained.add(node)
    return trained


def _trains(unit: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in unit.parameters())


def _weights(program: Program, node: Node) -> list[object]:
    """Return the weight and the bias of a linear operation with weights."""
    if node.target not in WEIGHTED or not is_linear(node, program.depends):
        return []
    return [node.args[place] for place in WEIGHTED[node.target] if place < len(node.args)]


def _require_traceable(program: Program, node: Node, trained: set[Node]) -> None:
    """Refuse what trains, but neither as a weight or bias nor in a neuron."""
    if node.op == "call_module":
        unit = program.unit(node)
        if not isinstance(unit, Neuron) and _trains(unit):
            raise TuneError(
                f"{node.name}: OTTT keeps no trace for the weights of {type(unit).__name__}; tune "
                "with SLTT(), or convert a trained ANN, which folds its BatchNorms"
            )
        return
    known = _weights(program, node)
    for source in node.all_input_nodes:
        parameter = program.depends[source] == Depends.PARAMETERS
        if parameter and source in trained and source not in known:
            raise TuneError(
                f"{node.name}: OTTT keeps traces for the weights of convolutions and linear "
                f"layers, not for {source.name}; set requires_grad to False there, or tune with "
                "SLTT()"
            )


def _leak_ahead(program: Program, node: Node) -> float | None:
    """Return the leak of the membranes that a value leads to, None if it leads to the answer."""
    met: dict[float | None, str] = {}
    ahead, seen = [node], {node}
    while ahead:
        for user in ahead.pop().users:
            if user in seen or (user.op != "output" and program.depends[user] != Depends.TIME):
                continue
            seen.add(user)
            unit = program.unit(user) if user.op == "call_module" else None
            if user.op == "output":
                met.setdefault(None, "the answer")
            elif isinstance(unit, Neuron):
                met.setdefault(_leak(user.name, unit), user.name)
            elif unit is None and is_linear(user, program.depends):
                ahead.append(user)
            else:
                raise TuneError(
                    f"{node.name}: OTTT needs linear operations between weights and neurons, and "
                    f"behind it stands {user.name}; tune with SLTT()"
                )
    if len(met) > 1:
        raise TuneError(
            f"{node.name} leads to {' and '.join(met.values())}, where it fades differently, and "
            "OTTT keeps one trace for each weight; tune with SLTT()"
        )
    return next(iter(met), None)


def _leak(name: str, neuron: Neuron) -> float:
    """Return how much of a neuron's membrane is left after a step."""
    kind, found = type(neuron).__name__, neuron.keeps()
    if found is None or not isinstance(neuron.firing.reset, SoftReset):
        raise TuneError(
            f"{name}: OTTT needs membranes that charge and fade under a soft reset, as those of "
            f"IF, LIF, PLIF, Burst and SignedIF do, not a {kind} with {neuron.firing.reset}; tune "
            "with SLTT()"
        )
    if found.requires_grad or found.numel() > 1:
        raise TuneError(
            f"{name}: OTTT needs one leak for all neurons of a layer, and one that does not "
            "train; set requires_grad to False there, or tune with SLTT()"
        )
    return float(found)
