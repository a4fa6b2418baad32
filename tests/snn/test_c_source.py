"""Every operation of a kernel in C against PyTorch's own, on numbers, infinities and NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spiketune.snn.fused.c_kernel import c_compiled

# What one kernel each does to two sequences.
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "sums": lambda x, y: [x + y, x - y, x * y, x / y, -x, 2 - x, x + 0.3],
    "bounds": lambda x, y: [
        x.minimum(y), x.maximum(y), x.clamp(-1, 0.7), x.clamp_min(0.1), x.clamp_max(0.1), x.abs(),
        x.sign(), x.copysign(y),
    ],
    "logic": lambda x, y: [
        (x >= y).to(x.dtype), (x > 0.3).to(x.dtype), torch.where(x < y, x, y), (x != y).to(x.dtype),
        ((x > 0) & (y > 0)).to(x.dtype), ((x > 0) | ~(y > 0)).to(x.dtype),
        torch.where(x <= 0, 1.5, y), x.masked_fill(y == 0, 2.0),
    ],
    "functions": lambda x, y: [
        x.exp(), x.abs().log(), x.tanh(), x.sigmoid(), x.atan(), x.abs().sqrt(), 1 / y, x**2,
        x.abs() ** 1.5, x.exp2(), x.abs().log2(),
    ],
    "rounding": lambda x, y: [x.floor(), x.ceil(), x.trunc(), x.round()],
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_pytorchs(name: str, dtype: torch.dtype) -> None:
    function = FUNCTIONS[name]
    special = [0.0, -0.0, 0.5, 1.5, -2.5, 1.0, float("inf"), -float("inf"), float("nan")]
    x = torch.cat([torch.tensor(special), torch.randn(60)]).to(dtype)[None]
    y = x[:, torch.randperm(x.shape[1])].contiguous()
    results = function(x, y)

    def write(out: Tensor, x: Tensor, y: Tensor) -> None:
        out.copy_(torch.stack([one[0] for one in function(x, y)]))

    out = torch.empty(len(results), x.shape[1], dtype=dtype)
    examples = [torch.ones(len(results), 5, dtype=dtype), *torch.ones(2, 1, 5, dtype=dtype)]
    c_compiled(write, examples)(out, x, y)
    # Of functions two correct roundings may differ in the last bits.
    close = {"rtol": 0.0, "atol": 0.0} if name != "functions" else {}
    torch.testing.assert_close(out, torch.cat(results), equal_nan=True, **close)
