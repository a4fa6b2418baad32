"""Pooling that counts: every window summed instead of averaged, so that a spike stays one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from .ops import aten


def sum_pool(node: Node, args: tuple[Any, ...]) -> Tensor:
    """Run a pooling node so that it sums its windows, whatever it averages over.

    Args:
        node: of an operation in ``ops.POOLING``.
        args: its arguments, the first a tensor ``[B, C, ...]``.

    Returns:
        The sums, in the shape of the node's answer.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 1, 4, 4)
        >>> node = torch.fx.Graph().call_function(aten.avg_pool2d.default)
        >>> sum_pool(node, (x, [2, 2])).unique().tolist()
        [4.0]
    """
    x: Tensor = args[0]
    assert callable(node.target)
    if node.target is aten.avg_pool2d.default:
        given = [*args, *[[], 0, False, True][len(args) - 2 :]]
        summed: Tensor = aten.avg_pool2d.default(*given[:6], divisor_override=1)
        return summed
    if node.target is aten.avg_pool1d.default:  # the same window in a plane one pixel high
        window = [[1, *args[1]], [1, *(args[2] if len(args) > 2 else args[1])]]
        rest = [[0, *args[3]], *args[4:6]] if len(args) > 3 else []
        given = [x.unsqueeze(-2), *window, *[*rest, *[[0, 0], False, True][len(rest) :]]]
        summed = aten.avg_pool2d.default(*given, divisor_override=1).squeeze(-2)
        return summed
    pooled: Tensor = node.target(*args, **node.kwargs)
    if node.target is aten.sum.dim_IntList:
        return pooled
    if node.target is aten.mean.dim:
        return pooled * (x.numel() / pooled.numel())
    # Windows of an adaptive pool differ in size: from floor(i n/m) to ceil((i + 1) n/m).
    spatial = pooled.dim() - 2
    for dim in range(-spatial, 0):
        n, m = x.shape[dim], pooled.shape[dim]
        sizes = [-(-(i + 1) * n // m) - i * n // m for i in range(m)]
        shape = [m if d == dim else 1 for d in range(-spatial, 0)]
        pooled = pooled * pooled.new_tensor(sizes).view(shape)
    return pooled
