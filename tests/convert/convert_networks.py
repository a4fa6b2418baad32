"""One small network around whatever a test wants to see converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Any, Tensor], Tensor]


class Around(nn.Module):
    """``head(mean(forward(relu(stem(x)))))``, with any layers by keyword."""

    def __init__(self, forward: Forward, channels: int = 4, **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.rule = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rule(self, torch.relu(self.stem(x))).mean((2, 3)))
        return out


def around(forward: Forward, **layers: nn.Module) -> Around:
    """Return the network in evaluation mode, its BatchNorms with statistics of their own."""
    net = Around(forward, 4, **layers)
    with torch.no_grad():
        net(torch.rand(8, 1, 8, 8))
        wild(net)
    return net.eval()


def wild(net: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics, gains and offsets that cannot be mistaken for none."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.05, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.5),
            ):
                if value is not None:
                    nn.init.uniform_(value, low, high)
    return net


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)  # type: ignore[arg-type]


def images(count: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 1, 8, 8, dtype=dtype)


def decibels(signal: Tensor, found: Tensor) -> float:
    """Return the signal-to-error ratio."""
    return float(20 * torch.log10(signal.norm() / (found - signal).norm()))
