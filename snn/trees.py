"""Answers in any structure: a tensor, or tensors in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def over_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to every tensor of a structure, beside those of others like it.

    Example:
        >>> import torch
        >>> over_leaves(lambda x: x + 1, {"a": torch.ones(1), "b": (torch.zeros(1),)})
        {'a': tensor([2.]), 'b': (tensor([1.]),)}
    """
    if isinstance(tree, dict):
        return {
            key: over_leaves(function, value, *(other[key] for other in others))
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        parts = [over_leaves(function, *values) for values in zip(tree, *others, strict=True)]
        return parts if isinstance(tree, list) else tuple(parts)
    return function(tree, *others)


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of a structure, in order.

    Example:
        >>> import torch
        >>> len(leaves((torch.ones(1), [torch.ones(1)])))
        2
    """
    found: list[Tensor] = []
    over_leaves(found.append, tree)
    return found
