"""What each node of a graph is marked with while reading; all that later stages know of it.

``path``: of the module it came from. ``shape``: of its value at batch size 2. ``batch``: whether
the images of a batch ``lead`` in it, are ``nowhere`` or ``elsewhere``. ``along``: it cuts, joins or
moves along the first dimension, so time must not be folded into that. ``size``, of a number:
``[a, b]`` where it is ``a + b B`` for a batch of ``B``. ``dtype``: of its value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .errors import ConversionError
from .ops import aten

_EVERYTHING = 2**63 - 1


def annotate(module: GraphModule) -> None:
    """Keep of each node's meta data only what is small: module path, shape, where images lie."""
    path = ""
    for node in module.graph.nodes:
        path = path_of(node, fallback=path)
        value = node.meta.get("val")
        size = _size_of(value)
        value = value[0] if isinstance(value, list | tuple) and value else value
        shape = [int(size) for size in value.shape] if isinstance(value, Tensor) else None
        node.meta = {"path": path, "shape": shape, "batch": _batch_of(value, path)}
        if _works_along_batch(node):
            node.meta["along"] = True
        if size is not None:
            node.meta["size"] = size
        if isinstance(value, Tensor):
            node.meta["dtype"] = str(value.dtype).removeprefix("torch.")


def _size_of(value: object) -> list[int] | None:
    """Return ``[a, b]`` where a size is ``a + b B`` for a batch of ``B``; None for no size."""
    if not isinstance(value, torch.SymInt):
        return None
    # ``expr`` has the example's own number put in by now; the symbol is still below.
    expression: Any = value.node._expr
    at = [int(expression.subs(dict.fromkeys(expression.free_symbols, b))) for b in (2, 3, 5)]
    factor = at[1] - at[0]
    if at[2] - at[1] != 2 * factor:
        raise ConversionError(
            "", f"a size of {expression} for a batch of that size", "let sizes grow with the batch"
        )
    return [at[0] - 2 * factor, factor]


def _batch_of(value: object, path: str) -> str:
    """Say where the images of a batch lie in a value: they lead, are nowhere, or elsewhere."""
    if not isinstance(value, Tensor):
        return "nowhere"
    varying = [not isinstance(size, int) for size in value.shape]
    if varying.count(True) > 1:
        raise ConversionError(
            path,
            "compares the images of a batch with one another",
            "remove what computes across the batch dimension",
        )
    return "nowhere" if not any(varying) else "lead" if varying.index(True) == 0 else "elsewhere"


def path_of(node: Node, fallback: str = "") -> str:
    """Return the path of the module that a node came from."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return fallback
    # A module called twice is named ``relu@1`` the second time.
    path: str = [entry[0] for entry in stack.values()][-1]
    return path.split("@")[0].removeprefix("L__self__").removeprefix("_").strip(".")


def _works_along_batch(node: Node) -> bool:
    """Whether a node cuts, joins or moves along the first dimension of its first input.

    Where an operation works along is an argument that its schema calls a dimension.
    """
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not node.all_input_nodes:
        return False
    rank = len(node.all_input_nodes[0].meta.get("shape") or ())
    given = {argument.name: argument.default_value for argument in schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    if node.target is aten.slice.Tensor:  # x[:, 1:] begins with a slice of everything
        whole = given["start"] in (None, 0) and given["end"] in (None, _EVERYTHING)
        return given["dim"] in (0, -rank) and not (whole and given["step"] == 1)
    if node.target is aten.index.Tensor:
        return given["indices"][0] is not None
    if node.target is aten.repeat.default:
        return len(given["repeats"]) == rank and given["repeats"][0] != 1
    if node.target is aten.permute.default:
        return False  # where the images lie behind it is read off its value
    along = [given[name] for name in ("dim", "dims", "dimension") if name in given]
    places = [dim for dims in along for dim in (dims if isinstance(dims, list | tuple) else [dims])]
    # No dimension at all stands for every one.
    return bool(along) and (not places or bool({0, -rank, None} & set(places)))
