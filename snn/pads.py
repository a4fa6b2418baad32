"""Constant padding that writes every place once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(
    x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Return ``F.pad(x, pad, mode, value)``, for inference.

    PyTorch fills all places with the constant first and writes the values over it.

    Example:
        >>> padded(torch.ones(1, 2), [0, 1, 1, 0]).tolist()
        [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    if mode != "constant" or min(pad, default=0) < 0 or torch.is_grad_enabled():
        return F.pad(x, pad, mode, value)
    edges = [(0, 0)] * (x.dim() - len(pad) // 2)
    edges += [(pad[place], pad[place + 1]) for place in range(len(pad) - 2, -1, -2)]
    sizes = [a + size + b for size, (a, b) in zip(x.shape, edges, strict=True)]
    out = torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=_format(x))
    inner = out
    for dim, (size, (before, after)) in enumerate(zip(x.shape, edges, strict=True)):
        inner.narrow(dim, 0, before).fill_(value or 0)
        inner.narrow(dim, before + size, after).fill_(value or 0)
        inner = inner.narrow(dim, before, size)
    inner.copy_(x)
    return out


def constant_padded(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """Return ``aten.constant_pad_nd(x, pad, value)``, for inference.

    Example:
        >>> constant_padded(torch.ones(1), [1, 0], 2.0).tolist()
        [2.0, 1.0]
    """
    return padded(x, pad, value=value)


def _format(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format
