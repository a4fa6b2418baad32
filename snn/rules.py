"""Is there a rule for everything that is left in the graph? What has none is refused by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from .dependencies import Depends, dependencies, has_rule
from .errors import ConversionError
from .network import SpikingNetwork
from .report import Row
from .trees import leaves

_WITHOUT = "take a network without it"
_REMEDY = (
    f"{_WITHOUT}; or, if it is a pure function of each image, call "
    "spiketune.register_function(OPERATION) before converting"
)
_BOTH_SIGNS = (
    "take one with ReLU-like activations, or convert with Graded(), whose neurons have both signs"
)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_REMEDIES = {
    "batch_norm": "give it running statistics and call eval() on the network",
    **dict.fromkeys(
        (*_RECURRENT, *(f"{name}_cell" for name in _RECURRENT)),
        "take a network without recurrent cells: they have a time of their own",
    ),
    "item": "leave numbers in tensors: one taken out of a tensor is the same for every image",
    "squeeze": "name the dimension to squeeze: a batch of one would vanish too",
}


def refusals(net: GraphModule) -> list[Row]:
    """Return a row for each node without a rule, with the remedy in its note.

    Args:
        net: a graph with its neurons in place.

    Example:
        >>> from torch import nn, rand
        >>> from spiketune.snn import read
        >>> [row.found for row in refusals(read(nn.LSTM(3, 2, batch_first=True), rand(2, 4, 3)))]
        ['lstm']
    """
    depends = dependencies(net.graph, net)
    rows = []
    for node in net.graph.nodes:
        constant = depends[node] in (Depends.PARAMETERS, Depends.SIZES)
        if node.op != "call_function" or constant or has_rule(node, depends):
            continue
        name = operation_name(node)
        note = _REMEDIES.get(name) or _remedy(node)
        rows.append(Row(node.meta.get("path", ""), name, "refused", note))
    return rows


def _remedy(node: Node) -> str:
    """Offer registration only for what can be registered."""
    if not isinstance(node.target, OpOverload):
        return _WITHOUT
    dtype = node.meta.get("dtype", "float")
    if "float" not in dtype:
        return f"{dtype} does not add up over time; do this outside, on what the network answers"
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return "it is random; remove it, or let it rest in eval()"
    returns = node.target._schema.returns
    pure = not node.target._schema.is_mutable and [str(r.type) for r in returns] == ["Tensor"]
    return _REMEDY.replace("OPERATION", f"torch.ops.{node.target}") if pure else _WITHOUT


def refuse(rows: list[Row], *, remedy: str = _BOTH_SIGNS) -> None:
    """Raise for what has no rule, and for a network in which nothing would spike.

    Args:
        rows: what became of each operation.
        remedy: what helps where nothing would spike.

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
            "",
            "no activation for which this method has a neuron, so nothing would spike",
            remedy,
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
    try:
        # Beside a loud image, so that even a faint trace of it shows.
        mixes = not all(
            _alike(beside.chunk(2)[place], alone)
            for place in (0, 1)
            for beside, alone in zip(
                leaves(snn.ann(torch.where(_only(place, pair), pair, 8 * pair))),
                leaves(snn.ann(pair[place : place + 1])),
                strict=True,
            )
        )
    except (IndexError, RuntimeError):  # a reshape that fits one batch size only
        mixes = True
    if mixes:
        raise ConversionError(
            "",
            "the answer to an image depends on the other images of its batch",
            "remove what computes across the batch dimension",
        )


def _only(place: int, pair: Tensor) -> Tensor:
    return (torch.arange(2, device=pair.device) == place).view(2, *[1] * (pair.dim() - 1))


def _alike(one: Tensor, other: Tensor) -> bool:
    size = one.abs().max().clamp_min(1e-12)
    return one.shape == other.shape and bool(
        (one - other).abs().max() / size <= rounding(one.dtype)
    )


def operation_name(node: Node) -> str:
    """Return ``gelu`` for ``aten.gelu.default``, and ``mine.wave`` for an operation of one's own.

    Example:
        >>> from torch.fx import Graph
        >>> operation_name(Graph().call_function(torch.ops.aten.gelu.default))
        'gelu'
    """
    if isinstance(node.target, OpOverload):
        return str(node.target.overloadpacket).removeprefix("aten.")
    return getattr(node.target, "__name__", str(node.target))
