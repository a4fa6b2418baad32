"""Count multiply-accumulates as spikes are counted: borders as they are, zero weights not at all.

The usual count multiplies outputs by fan-in, padding and pruned weights included. A spike meets
neither, so a spiking network would look better than it is beside that: by nine to one for a 3x3
kernel on a map of one pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .ops import aten


def count_macs(ann: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for ``image [1, ...]``.

    Example:
        >>> count_macs(nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 2, 2))  # 36 with borders
        16
    """
    counted = {
        aten.convolution: _convolution,
        aten._convolution: _convolution,
        aten.addmm: lambda bias, x, weight, *, out_val: _product(x, weight),
        aten.mm: lambda x, weight, *, out_val: _product(x, weight),
    }
    for function in counted.values():
        function._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=counted) as counter:
        ann(image)
    return int(counter.get_total_flops()) // 2


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any, out_val: Tensor
) -> int:
    """Run on ones, in double: a sum of many ones is not exact in single precision."""
    ones = torch.ones_like(x, dtype=torch.float64)
    indicator = (weight != 0).double()
    met: Tensor = aten.convolution(ones, indicator, None, *settings[:6]).sum()
    return 2 * round(met.item())


def _product(x: Tensor, weight: Tensor) -> int:
    return 2 * len(x) * int(weight.count_nonzero())
