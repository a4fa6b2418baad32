"""The image as random spikes, for hardware whose first layer takes nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import State
from .errors import SpiketuneError
from .neurons import Temporal
from .units import register_unit


@register_unit
class Poisson(Temporal):
    """Turn each value ``x`` of an image into spikes of ``±scale`` with probability ``|x|/scale``.

    The mean over time is ``x`` where ``|x| <= scale``, with variance ``|x| (scale - |x|)/T``;
    larger values are clipped. In evaluation every call draws the same spikes again, from ``seed``,
    and one draw serves all images of a batch, so that no answer depends on the others. In training
    every image gets spikes of its own, drawn anew at each call from torch's global generator: a
    network that always met the same noise would learn that noise.

    Args:
        scale: the largest value, in the units of the image.
        seed: of the draws in evaluation.

    Raises:
        SpiketuneError: on a scale that is not above zero.

    Source: Diehl et al. 2015, section II; Sengupta et al. 2019.

    Example:
        >>> spikes, _ = Poisson(scale=2.0)(torch.full((1000, 1, 1), 0.5))
        >>> sorted(set(spikes.flatten().tolist())), 0.4 < spikes.mean().item() < 0.6
        ([0.0, 2.0], True)
    """

    settings = ("scale", "seed")

    def __init__(self, *, scale: float, seed: int = 0) -> None:
        super().__init__()
        if not scale > 0:
            raise SpiketuneError(f"scale must be above zero, not {scale}; give the largest value")
        self.scale, self.seed = scale, seed

    @property
    def sends_spikes(self) -> bool:
        """Yes."""
        return True

    def ann(self, x: Tensor) -> Tensor:
        """Return the image as it is."""
        return x

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return spikes ``[T, B, ...]``; in evaluation a step's draws depend on the step alone."""
        first = 0 if state is None else state.count
        spikes = []
        for number, now in enumerate(x.unbind(0), start=first):
            chance = self._fresh(now) if self.training else self._fixed(number, now)
            fires = chance * self.scale < now.abs()
            spikes.append(self.scale * fires.to(now.dtype) * now.sign())
        return torch.stack(spikes), State(x[-1], count=first + len(x))

    def _fresh(self, now: Tensor) -> Tensor:
        """Return draws of each image's own."""
        # Half precision would round small chances to none.
        dtype = torch.promote_types(now.dtype, torch.float32)
        return torch.rand(now.shape, dtype=dtype, device=now.device)

    def _fixed(self, number: int, now: Tensor) -> Tensor:
        """Return the draws of a step, the same for every image."""
        # Drawn on the CPU, so that every device sees the same spikes.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        drawn = torch.rand(now.shape[1:], generator=generator, dtype=torch.float64)
        return drawn.to(now.device)

    def extra_repr(self) -> str:
        """Say the scale."""
        return f"scale={self.scale}, seed={self.seed}"
