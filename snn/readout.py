"""How the answer is read off the outputs of many steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SpiketuneError


@dataclass(frozen=True, kw_only=True)
class Mean:
    """``y(t) = Σ_{k<=t} o(k) / min(t, D)``: the mean; with a drive ``D``, what has arrived so far.

    Source: Rueckauer et al. 2017, section 2.1.

    Example:
        >>> Mean()(torch.tensor([1.0, 3.0]), None).tolist()
        [1.0, 2.0]
    """

    def __call__(self, outputs: Tensor, drive: int | None) -> Tensor:
        """Return the answer after each step, ``[T, ...]``, of the outputs ``[T, ...]``."""
        return outputs.cumsum(0) / _steps(outputs).clamp_max(drive or len(outputs))


@dataclass(frozen=True, kw_only=True)
class Delayed:
    """``y(t) = Σ_{s<k<=t} o(k) / (t - s)``, ``s = min(start, max(t - 4, 0))``.

    The first steps of a deep network carry the transient of its early layers. A budget too short
    to leave out ``start`` steps is read from its last four.

    Attributes:
        start: steps left out.

    Raises:
        SpiketuneError: on a start below 1, or a network whose image acts for some steps only.

    Source: Bu et al. 2025 (LTB), delayed evaluation.

    Example:
        >>> Delayed(start=2)(torch.tensor([9.0, 9.0, 9.0, 1.0, 1.0, 1.0]), None)[-1].item()
        3.0
    """

    start: int = 8

    def __post_init__(self) -> None:
        if self.start < 1:
            raise SpiketuneError(f"start must be at least 1, not {self.start}; Mean() leaves none")

    def __call__(self, outputs: Tensor, drive: int | None) -> Tensor:
        """Return the answer after each step, ``[T, ...]``, of the outputs ``[T, ...]``."""
        if drive is not None:
            raise SpiketuneError(
                "a delayed readout needs an image that acts at every step; use Mean() with a drive"
            )
        t = torch.arange(1, len(outputs) + 1, device=outputs.device)
        start = (t - 4).clamp(0, self.start)
        sums = torch.cat([torch.zeros_like(outputs[:1]), outputs.cumsum(0)])
        return (sums[t] - sums[start]) / (t - start).view(-1, *[1] * (outputs.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class Membrane:
    """``y(t) = Σ_{k<=t} o(k)``: the membrane of output neurons that never fire.

    It orders the classes as the mean does, and grows with ``t``.

    Source: Sengupta et al. 2019; Rathi et al. 2020 (STDB), the output layer.

    Example:
        >>> Membrane()(torch.tensor([1.0, 3.0]), None).tolist()
        [1.0, 4.0]
    """

    def __call__(self, outputs: Tensor, drive: int | None) -> Tensor:
        """Return the answer after each step, ``[T, ...]``, of the outputs ``[T, ...]``."""
        return outputs.cumsum(0)


Readout = Mean | Delayed | Membrane


def _steps(outputs: Tensor) -> Tensor:
    steps = torch.arange(1, len(outputs) + 1, device=outputs.device, dtype=outputs.dtype)
    return steps.view(-1, *[1] * (outputs.dim() - 1))
