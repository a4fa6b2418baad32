"""Images as spike times: the brighter, the earlier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import number, positive, whole
from ..errors import SpiketuneError
from ..units import register_unit

# How far beyond black or white a pixel may lie, as rounding and interpolation put it.
SLACK = 1e-3


@register_unit
class Latency(nn.Module):
    """One spike a pixel: ``t = (1 - I) window`` for a brightness ``I`` in (0, 1]; none for black.

    Args:
        window: in steps; the time of the darkest pixel that still spikes.
        horizon: time that stands for no spike.
        mean: of the images' preparation, a channel each or one for all: ``I = x std + mean``.
        std: likewise.
        negative: send the negative too, ``1 - I`` in as many channels again: dark pixels then have
            a time of their own, where a black one would say nothing.

    Raises:
        SpiketuneError: unless ``0 < window <= horizon``, on a mean or std that is no number; when
            called, on images beyond black and white.

    Source: Kheradpisheh & Masquelier 2020 (S4NN), intensity to latency, there in whole steps.

    Example:
        >>> Latency(window=16, horizon=32)(torch.tensor([[[[1.0, 0.5, 0.0]]]])).flatten().tolist()
        [0.0, 8.0, 32.0]
    """

    settings = ("window", "horizon", "mean", "std", "negative")

    def __init__(
        self,
        *,
        window: float = 16.0,
        horizon: int = 32,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        negative: bool = False,
    ) -> None:
        super().__init__()
        if not (positive(window) and whole(horizon) and window <= horizon):
            raise SpiketuneError(
                f"the window of {window!r} steps in which an image spikes must be above 0 and end "
                f"by the horizon of {horizon!r} whole steps; lower the one or raise the other"
            )
        self.window, self.horizon, self.negative = window, horizon, negative
        self.mean, self.std = tuple(mean), tuple(std)
        if not all(map(number, self.mean)) or not all(map(positive, self.std)):
            raise SpiketuneError(
                f"mean={list(mean)} must be numbers and std={list(std)} numbers above 0, as the "
                "images are prepared with"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the times of images ``[B, C, ...]``, with their negatives ``[B, 2C, ...]``."""
        if not {len(self.mean), len(self.std)} <= {1, x.shape[1]}:
            raise SpiketuneError(
                f"{len(self.mean)} means and {len(self.std)} stds for images of {x.shape[1]} "
                "channels; give one of each for all channels, or one a channel"
            )
        if not len(x):
            return torch.cat([x, x], dim=1) if self.negative else x
        shape = (-1, *[1] * (x.dim() - 2))
        bright = x * x.new_tensor(self.std).view(shape) + x.new_tensor(self.mean).view(shape)
        low, high = (float(one) for one in torch.aminmax(bright.detach()))
        if low < -SLACK or high > 1 + SLACK:
            raise SpiketuneError(
                f"spike times come from a brightness of 0 to 1, but that of the images goes from "
                f"{low:.3g} to {high:.3g}; load them with cfg=snn, or give the network the mean "
                "and std that they are prepared with"
            )
        if self.negative:
            bright = torch.cat([bright, 1 - bright], dim=1)
        return torch.where(bright > 0, (1 - bright.clamp(0, 1)) * self.window, self.horizon)

    def extra_repr(self) -> str:
        """Say window and horizon, and whether negatives are sent."""
        return f"window={self.window}, horizon={self.horizon}, negative={self.negative}"
