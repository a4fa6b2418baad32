"""What every value of a graph depends on, and which operations are linear in their signals."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from torch.fx import Graph, Node
from torch.nn import Module

from .neurons import Temporal
from .ops import FUNCTIONS, POOLING, RUNNABLE, SCALARS, SCALINGS, SHAPES, SUMS, WEIGHTED, aten


class Depends(Enum):
    """What the value of a node depends on."""

    PARAMETERS = 0
    SIZES = 1
    IMAGE = 2
    TIME = 3


SIGNALS = (Depends.IMAGE, Depends.TIME)


def dependencies(graph: Graph, root: Module) -> dict[Node, Depends]:
    """Return for each node what its value depends on.

    Example:
        >>> import torch
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
            if Depends.SIZES in inputs and inputs <= {Depends.PARAMETERS, Depends.SIZES}:
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


def is_linear(node: Node, depends: dict[Node, Depends]) -> bool:
    """Whether a node is linear, up to a constant, in the values that change over time.

    Linear operations run on every step by themselves; all others are functions of the sums.

    Example:
        >>> import torch
        >>> from spiketune.snn.reading import read
        >>> net = read(torch.nn.GELU(), torch.rand(2, 3))
        >>> [is_linear(n, dependencies(net.graph, net)) for n in net.graph.nodes][1]
        False
    """
    decide = _LINEAR.get(node.target)
    return decide is not None and decide(node, depends)


def _always(node: Node, depends: dict[Node, Depends]) -> bool:
    return True


def _padding(node: Node, depends: dict[Node, Depends]) -> bool:
    """Zeros around it keep it linear; copies of the border do too."""
    given = list(node.args[2:])
    mode, value = (given[0], given[1:]) if given and isinstance(given[0], str) else ("", given)
    return mode in ("", "constant") and (not value or not value[0]) and not node.kwargs


def _weights_fixed(node: Node, depends: dict[Node, Depends]) -> bool:
    """Weights are constants; only the first argument is a signal."""
    rest = [n for n in node.all_input_nodes if n is not node.args[0]]
    return all(depends[n] == Depends.PARAMETERS for n in rest)


def _scaling(node: Node, depends: dict[Node, Depends]) -> bool:
    """A signal times or by a constant; a constant by a signal is a function."""
    signals = [n for n in node.all_input_nodes if depends[n] in SIGNALS]
    divided = node.target in (aten.div.Tensor, aten.div.Scalar)
    sizes = any(depends[n] == Depends.SIZES for n in node.all_input_nodes)
    twice = sum(arg is signals[0] for arg in node.args) > 1 if signals else False
    return (
        len(signals) <= 1
        and not twice
        and not sizes
        and (not divided or not signals or node.args[0] is signals[0])
    )


_LINEAR: dict[object, Callable[[Node, dict[Node, Depends]], bool]] = {
    **dict.fromkeys(POOLING | SUMS | SHAPES, _always),
    **dict.fromkeys(SCALINGS, _scaling),
    **dict.fromkeys(WEIGHTED, _weights_fixed),
    aten.pad.default: _padding,
    aten.constant_pad_nd.default: _padding,
}


def has_rule(node: Node, depends: dict[Node, Depends]) -> bool:
    """Whether a node can run on values that change over time.

    Example:
        >>> import torch
        >>> from spiketune.snn.reading import read
        >>> net = read(torch.nn.GELU(), torch.rand(2, 3))
        >>> [has_rule(n, dependencies(net.graph, net)) for n in net.graph.nodes][1]
        True
    """
    # Of truth values and whole numbers there are no changes to send: they do not add up.
    adds_up = "float" in node.meta.get("dtype", "float")
    if depends[node] == Depends.TIME and not adds_up:
        return False
    return is_linear(node, depends) or node.target in FUNCTIONS or node.target in _LINEAR
