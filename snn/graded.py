"""Neurons whose spikes come in several sizes and two signs, and may be taken back.

The neuron sends what is missing between its activation ``f`` of all current so far and all that
it has sent, one spike a step, of the nearest size that it has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import Firing, SoftReset, State
from .errors import SpiketuneError
from .neurons import Neuron
from .schedules import Constant, Schedule
from .units import register_unit


def nearest_level(x: Tensor, levels: int) -> Tensor:
    """Return the nearest of ``0, ±1, ±1/2, ..., ±2^-(levels - 1)``.

    Args:
        x: ``[...]``, in units of the largest spike.
        levels: sizes of spikes, ``n``.

    Returns:
        ``[...]``; ties go to the larger, but half the smallest size to zero.

    Source: multi-threshold neurons, Huang et al. 2024 (ECMT): thresholds at ¾ of each size.

    Example:
        >>> nearest_level(torch.tensor([0.9, 0.7, -0.3, 0.2, 5.0]), levels=2).tolist()
        [1.0, 0.5, -0.5, 0.0, 1.0]
    """
    if x.dtype not in _BITS:
        return nearest_level(x.float(), levels).to(x.dtype)
    integer, half, exponent = _BITS[x.dtype]
    size = x.abs()
    # On the bits, several times faster than frexp: half a mantissa is added, which carries into
    # the exponent from 3/4 of the next power of two on, and the mantissa is cut off.
    level = (size.view(integer) + half).bitwise_and_(exponent).view(x.dtype)
    level.clamp_(0.5 ** (levels - 1), 1.0)
    # Above half the smallest, not at it: a spike there would leave as much to be taken back, and
    # the neuron would never come to rest.
    return level.mul_(size.gt_(0.5**levels)).copysign_(x)


# Integers of the same width, half a mantissa, and the bits of sign and exponent.
_BITS = {
    torch.float32: (torch.int32, 1 << 22, -(1 << 23)),
    torch.float64: (torch.int64, 1 << 51, -(1 << 52)),
}


@register_unit
class Graded(Neuron):
    """Signed multi-threshold neuron with a memory of what it has sent.

    ``X += c``; ``e = n(t) f(X/n(t)) - S``; up to ``spikes`` times: ``s = q(e)``, ``e -= s``,
    ``S += s``. ``q`` picks the nearest of ``0, ±θ g(t) 2^-k`` (``k < levels``), ``n(t) = min(t,
    drive)`` counts the steps in which the image has acted, and ``g`` is the schedule.

    Args:
        threshold: ``θ``, the largest spike; as in ``Neuron``.
        levels: sizes of spikes, ``n``: ``θ, θ/2, ..., θ/2^(n-1)``; 1 is a ternary neuron.
        spikes: most spikes in one step; more than one is a successive approximation.
        drive: steps during which image and biases act, None for always (rate coding).
        schedule: how much a spike counts at which step.
        initial: not used; the nearest size rounds by itself.
        floor: as in ``Neuron``, like those that follow.
        ceiling: see above.
        firing: see above; the reset is soft.
        folded: see above.

    Raises:
        SpiketuneError: on fewer than one level or spike, or a hard reset.

    Source: Huang et al. 2024 (ECMT), 2025 (DCGS); successive approximation as in H-MT (AAAI 2026).

    Example:
        >>> spikes, _ = Graded(torch.tensor(1.0), levels=3, drive=1)(torch.tensor([[0.7], [0.0]]))
        >>> spikes.flatten().tolist()
        [0.5, 0.25]
    """

    settings = (*Neuron.settings, "levels", "spikes", "drive", "schedule")

    def __init__(
        self,
        threshold: Tensor,
        *,
        levels: int = 8,
        spikes: int = 1,
        drive: int | None = None,
        schedule: Schedule = Constant(),  # noqa: B008 (frozen)
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        if levels < 1 or spikes < 1:
            raise SpiketuneError(f"levels and spikes must be at least 1, not {levels} and {spikes}")
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError("a graded neuron resets softly; use Firing(reset=SoftReset())")
        self.levels, self.spikes, self.drive, self.schedule = levels, spikes, drive, schedule

    def start(self, current: Tensor) -> State:
        """Return the state before the first step: nothing received, nothing sent."""
        dtype = torch.promote_types(current.dtype, self.threshold.dtype)
        nothing = torch.zeros(current.shape[1:], dtype=dtype, device=current.device)
        return State(nothing, nothing, 0)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        assert state.tracer is not None
        total, count = state.membrane + current, state.count + 1
        n = min(count, self.drive) if self.drive else count
        target = self.activation(total) if n == 1 else n * self.activation(total / n)
        missing = target - state.tracer
        size = self.threshold * self.schedule(count)
        spikes = nearest_level(missing / size, self.levels) * size
        for _ in range(self.spikes - 1):
            spikes = spikes + nearest_level((missing - spikes) / size, self.levels) * size
        if spikes.requires_grad or missing.requires_grad:
            # Straight through: in the limit of fine levels the neuron sends all that is missing.
            # The difference is exactly zero, so keeping gradients changes no spike.
            spikes = spikes.detach() + (missing - missing.detach())
        return spikes, State(total, state.tracer + spikes, count)

    def events(self, spikes: Tensor, first: int = 0) -> Tensor:
        """Return how many spikes each output ``[T, B, ...]``, sent from step ``first``, holds."""
        if self.spikes == 1:
            return spikes != 0
        own = torch.ones_like(self.threshold) if self.folded else self.threshold
        size = torch.stack([own * self.schedule(first + t + 1) for t in range(len(spikes))])
        left = spikes / size.view(len(spikes), *[1] * (spikes.dim() - size.dim()), *size.shape[1:])
        count = torch.zeros_like(left)
        for _ in range(self.spikes):
            sent = nearest_level(left, self.levels)
            left, count = left - sent, count + (sent != 0)
        return count
