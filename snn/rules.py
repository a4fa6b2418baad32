"""Is there a rule for everything that is left in the graph? What has none is refused by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Target

from .errors import ConversionError
from .network import SpikingNetwork
from .ops import MAXIMA, POOLING, RESHAPES, SCALINGS, SHAPES, SUMS, WEIGHTED, aten
from .program import Depends, dependencies
from .report import Row

_LINEAR = POOLING | SHAPES | SUMS | set(WEIGHTED)
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
# Where these have their dimension among the arguments.
_ALONG: dict[Target, int] = {
    aten.cat.default: 1,
    aten.chunk.default: 2,
    aten.select.int: 1,
    aten.slice.Tensor: 1,
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.unbind.int: 1,
}
_EVERYTHING = 2**63 - 1
_REMEDY = "take a network without it, or put what it does in terms of operations that have a rule"
_ACTIVATION = "replace it by ReLU or ReLU6 and retrain, or take a network without it"
_CURVED = (
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "mish", "prelu", "rrelu",
    "selu", "sigmoid", "silu", "softplus", "tanh",
)  # fmt: skip
_REMEDIES = {
    "batch_norm": "give it running statistics and call eval() on the network",
    **dict.fromkeys(_CURVED, _ACTIVATION),
    "squeeze": "name the dimension to squeeze: a batch of one would vanish too",
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


def rounding(dtype: torch.dtype) -> float:
    """Return the relative difference that rounding alone explains in a deep network.

    Example:
        >>> rounding(torch.float32)
        0.001
    """
    return max(1e-3, 16 * torch.finfo(dtype).eps)


def refuse_mixing(snn: SpikingNetwork, images: Tensor) -> None:
    """Raise if the answer to an image depends on the others in its batch.

    Time is folded into the batch, so such a network would mix its own steps.

    Args:
        snn: the network; its graph is run as an ANN.
        images: one or more.

    Raises:
        ConversionError: if the answers differ by more than rounding.

    Example:
        >>> import spiketune as st, torch
        >>> ann = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> refuse_mixing(st.to_snn(ann, torch.rand(9, 4), st.Binary()), torch.rand(2, 4))
    """
    pair = images[:2] if len(images) > 1 else torch.cat([images, images / 2])
    together = snn.ann(pair)
    try:
        apart = torch.cat([snn.ann(pair[:1]), snn.ann(pair[1:])])
        twice = snn.ann(torch.cat([pair, pair]))
        size = together.abs().max().clamp_min(1e-12)
        error = max((together - apart).abs().max(), (twice - torch.cat([apart] * 2)).abs().max())
        mixes = not bool(error / size <= rounding(together.dtype))
    except RuntimeError:  # a reshape that fits one batch size only
        mixes = True
    if mixes:
        raise ConversionError(
            "",
            "the answer to an image depends on the other images of its batch",
            "remove what computes across the batch dimension",
        )


def _reason(node: Node, depends: dict[Node, Depends]) -> str:
    """Return why the node cannot run on spikes, empty if it can."""
    signals = [
        arg
        for arg in node.args
        if isinstance(arg, Node) and depends[arg] in (Depends.IMAGE, Depends.TIME)
    ]
    known = node.target in _LINEAR | SCALINGS | MAXIMA
    if known and (node.meta.get("batch", "lead") != "lead" or _splits_batch(node)):
        return "it moves the images of a batch from the first dimension, or mixes them; let it not"
    sizes = any(depends[n] == Depends.SIZES for n in node.all_input_nodes)
    if known and sizes and node.target not in RESHAPES | {aten.expand.default}:
        return "it computes with the size of the batch; use numbers that do not depend on it"
    if node.target in SCALINGS:
        if len(signals) == 1 and (node.args[0] in signals or "mul" in str(node.target)):
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
    return "" if node.target in _LINEAR else _REMEDIES.get(_name(node), _REMEDY)


def _splits_batch(node: Node) -> bool:
    """Whether the node cuts or joins along the first dimension."""
    if node.target not in _ALONG:
        return False
    place = _ALONG[node.target]
    dim = node.kwargs.get("dim", node.args[place] if len(node.args) > place else 0)
    source = node.args[0][0] if isinstance(node.args[0], list | tuple) else node.args[0]
    shape = source.meta.get("shape") if isinstance(source, Node) else None
    if dim != 0 and not (shape and dim == -len(shape)):
        return False
    if node.target is aten.slice.Tensor:  # x[:, 1:] begins with a slice of everything
        start, end = (*node.args[2:], None, None)[:2]
        return start not in (None, 0) or not (end is None or end == _EVERYTHING)
    return True


def _name(node: Node) -> str:
    """Return ``gelu`` for ``aten.gelu.default``."""
    parts = str(node.target).split(".")
    return parts[1] if parts[0] == "aten" else parts[-1]
