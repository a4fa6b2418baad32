"""Is there a rule for everything that is left in the graph? What has none is refused by name."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from .errors import ConversionError
from .ops import MAXIMA, POOLING, SCALINGS, SHAPES, SUMS, WEIGHTED, aten
from .program import Depends, dependencies
from .report import Row

_LINEAR = POOLING | SHAPES | SUMS | set(WEIGHTED)
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_REMEDY = "replace it by ReLU or ReLU6 and retrain, or take a network without it"
_REMEDIES = {
    "batch_norm": "give it running statistics and call eval() on the network",
    "dropout": "call eval() on the network",
    "softmax": "leave the softmax out of the network: the answer's order does not need it",
    "log_softmax": "leave the softmax out of the network: the answer's order does not need it",
}


def refusals(net: GraphModule, *, maxima: bool = False) -> list[Row]:
    """Return a row for each node without a rule, with the remedy in its note.

    Args:
        net: a graph with its neurons in place.
        maxima: whether the maximum of the spikes of one step may stand, as in networks that were
            trained with it.

    Example:
        >>> import torch
        >>> from spiketune.snn import read
        >>> [row.found for row in refusals(read(torch.nn.GELU(), torch.rand(2, 3)))]
        ['gelu']
    """
    depends = dependencies(net.graph, net)
    rows = []
    for node in net.graph.nodes:
        if node.op != "call_function" or depends[node] in (Depends.PARAMETERS, Depends.SIZES):
            continue
        reason = "" if maxima and node.target in MAXIMA else _reason(node, depends)
        if reason:
            rows.append(Row(node.meta.get("path", ""), _name(node), "refused", reason))
    return rows


def refuse(rows: list[Row]) -> None:
    """Raise for what has no rule, and for a network in which nothing would spike.

    Raises:
        ConversionError: module path, what was found, what to do.

    Example:
        >>> refuse([Row("act1", "relu", "neuron")])
    """
    refused = [row for row in rows if row.became == "refused"]
    if refused:
        first, more = refused[0], len(refused) - 1
        others = f" ({more} more; check() lists them)" if more else ""
        raise ConversionError(first.path, f"no rule for {first.found}{others}", first.note)
    if not any(row.became == "neuron" for row in rows):
        raise ConversionError(
            "", "no ReLU-like activation, so nothing would spike", "take a network that has some"
        )


def _reason(node: Node, depends: dict[Node, Depends]) -> str:
    """Return why the node cannot run on spikes, empty if it can."""
    signals = [n for n in node.all_input_nodes if depends[n] in (Depends.IMAGE, Depends.TIME)]
    if node.target in SCALINGS:
        numerator = node.args[0] in signals
        if len(signals) == 1 and (numerator or "mul" in str(node.target)):
            return ""
        return "a product or quotient of activations is not linear; " + _REMEDY
    if node.target in _PADS:
        plain = (*node.args[2:], "constant")[0] in ("constant", 0, 0.0)
        zero = node.args[-1] in (0, 0.0, None, "constant") or len(node.args) < 3
        return "" if plain and zero else "it pads with something other than zeros; pad with zeros"
    if node.target in WEIGHTED:
        weight = node.args[WEIGHTED[node.target][0]]
        fixed = isinstance(weight, Node) and depends[weight] == Depends.PARAMETERS
        return "" if fixed else "its weights depend on the image; " + _REMEDY
    if node.target in MAXIMA and depends[node] == Depends.IMAGE:
        return ""  # in the stem, computed once on exact values
    if node.target in _LINEAR:
        leads = node.meta.get("batch_leads", True)
        return "" if leads else "it moves the batch from the first dimension; keep the batch first"
    return _REMEDIES.get(_name(node), _REMEDY)


def _name(node: Node) -> str:
    """Return ``gelu`` for ``aten.gelu.default``."""
    parts = str(node.target).split(".")
    return parts[1] if parts[0] == "aten" else parts[-1]
