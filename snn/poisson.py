"""The image as random spikes, for hardware whose first layer takes nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import State
from .errors import SpiketuneError
from .neurons import Temporal


class Poisson(Temporal):
    """Turn each value ``x`` of an image into spikes of ``±scale`` with probability ``|x|/scale``.

    The mean over time is ``x`` where ``|x| <= scale``, with variance ``|x| (scale - |x|)/T``;
    larger values are clipped. Every call draws the same spikes again, from ``seed``.

    Args:
        scale: the largest value, in the units of the image.
        seed: of the draws.

    Raises:
        SpiketuneError: on a scale that is not above zero.

    Source: Diehl et al. 2015, section II; Sengupta et al. 2019.

    Example:
        >>> spikes, _ = Poisson(scale=2.0)(torch.full((1000, 1, 1), 0.5))
        >>> sorted(set(spikes.flatten().tolist())), 0.4 < spikes.mean().item() < 0.6
        ([0.0, 2.0], True)
    """

    def __init__(self, *, scale: float, seed: int = 0) -> None:
        super().__init__()
        if not scale > 0:
            raise SpiketuneError(f"scale must be above zero, not {scale}; give the largest value")
        self.scale, self.seed = scale, seed

    def ann(self, x: Tensor) -> Tensor:
        """Return the image as it is."""
        return x

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return spikes ``[T, B, ...]``; a step's draws depend on the step alone."""
        first = 0 if state is None else state.count
        spikes = []
        for number, now in enumerate(x.unbind(0), start=first):
            # Drawn on the CPU, so that every device sees the same spikes.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            chance = torch.rand(now.shape[1:], generator=generator, dtype=torch.float64)
            fires = chance.to(now.device) * self.scale < now.abs()
            spikes.append(self.scale * fires.to(now.dtype) * now.sign())
        return torch.stack(spikes), State(x[-1], count=first + len(x))

    def extra_repr(self) -> str:
        """Say the scale."""
        return f"scale={self.scale}, seed={self.seed}"
