"""Where the weights of a layer lie over its input: a convolution's window, or all of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Sizes of a layer; a fully connected one is a window of one place with all inputs as channels.

    Attributes:
        channels: of the input.
        height: of the input.
        width: of the input.
        rows: of the window.
        columns: of the window.
        stride: of the window, downwards and to the right.
        padding: places without spikes around the input, above and below, left and right.

    Example:
        >>> Geometry(3, 8, 10, 5, 5, (1, 1), (0, 2)).places
        (4, 10)
    """

    channels: int
    height: int
    width: int
    rows: int
    columns: int
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def of(
        cls, times: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Geometry:
        """Return the sizes of a layer that sees ``times [B, C, H, W]``."""
        channels, height, width = times.shape[1:]
        return cls(channels, height, width, weight.shape[2], weight.shape[3], stride, padding)

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the output; not above 0 where the window is larger than the input."""
        down = (self.height + 2 * self.padding[0] - self.rows) // self.stride[0] + 1
        right = (self.width + 2 * self.padding[1] - self.columns) // self.stride[1] + 1
        return down, right

    @property
    def fan_in(self) -> int:
        """Weights of one neuron."""
        return prod((self.channels, self.rows, self.columns))

    def patches(self, times: Tensor, never: float) -> Tensor:
        """Return what each place sees of ``times [B, C, H, W]``, ``[B, P, fan_in]``."""
        down, right = self.padding
        padded = torch.nn.functional.pad(times, (right, right, down, down), value=never)
        found = torch.nn.functional.unfold(padded, (self.rows, self.columns), stride=self.stride)
        return found.transpose(1, 2)

    def gathered(self, patches: Tensor) -> Tensor:
        """Return the sum ``[B, C, H, W]`` of what places ``[B, P, fan_in]`` say of each input."""
        found: Tensor = torch.nn.functional.fold(
            patches.transpose(1, 2), (self.height, self.width), (self.rows, self.columns),
            padding=self.padding, stride=self.stride,
        )  # fmt: skip
        return found
