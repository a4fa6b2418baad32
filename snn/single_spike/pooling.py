"""Pooling of spike times."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ..checks import whole
from ..errors import SpiketuneError
from ..units import register_unit


@register_unit
class EarliestPool2d(nn.Module):
    """Let the earliest spike of each window pass: ``t = min_i t_i``, which takes the gradient.

    Args:
        size: of the window, which moves by as much.

    Source: Mirsadeghi et al. 2023 has pooling between convolutions; that it takes the earliest
    spike is reconstructed.

    Example:
        >>> import torch
        >>> EarliestPool2d(size=2)(torch.tensor([[[[3.0, 1.0], [2.0, 8.0]]]])).item()
        1.0
    """

    settings = ("size",)

    def __init__(self, *, size: int) -> None:
        super().__init__()
        if not whole(size):
            raise SpiketuneError(f"size must be a whole number, at least 1, not {size!r}")
        self.size = size

    def forward(self, times: Tensor) -> Tensor:
        """Return the times ``[B, C, H/size, W/size]``; an odd border is dropped."""
        return -functional.max_pool2d(-times, self.size)

    def extra_repr(self) -> str:
        """Say the size."""
        return f"size={self.size}"
