"""Shapes of the potential that one spike leaves behind, piecewise linear and given by knots.

``ε(x) = Σ_k j_k 1[x >= d_k] + b_k max(0, x - d_k)``: at the delay ``d_k`` after the spike the
potential jumps by ``j_k`` and its slope changes by ``b_k``. Sums of such shapes are linear between
events, so that thresholds are crossed at times that can be computed exactly.

Source: the piecewise-linear potential of Mirsadeghi et al. 2021 (STiDi-BP); which shape the paper
takes is not known here, so that the user chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import number, positive
from ..errors import SpiketuneError
from ..settings import register_setting


class Knot(NamedTuple):
    """Where a shape jumps or bends: ``at`` steps after the spike, by ``jump``, slope by ``bend``.

    Example:
        >>> Knot(at=0.0, jump=0.0, bend=1.0).bend
        1.0
    """

    at: float
    jump: float
    bend: float


@dataclass(frozen=True)
class PSP(ABC):
    """Base of the shapes.

    Example:
        >>> import torch
        >>> RampPSP(tau=2.0).value(torch.tensor([-1.0, 1.0, 5.0])).tolist()
        [0.0, 0.5, 1.0]
    """

    @property
    @abstractmethod
    def knots(self) -> tuple[Knot, ...]:
        """Where it jumps and bends, the earliest first."""

    def value(self, x: Tensor) -> Tensor:
        """Return ``ε(x)``, ``x`` steps after the spike; 0 before it."""
        found = torch.zeros_like(x)
        for at, jump, bend in self.knots:
            if jump:
                found = found + jump * (x >= at).to(x.dtype)
            if bend:
                found = found + bend * (x - at).clamp_min(0)
        return found

    @property
    def derivative(self) -> PSP:
        """``ε'``, a shape that only jumps; at a knot it is the slope after it."""
        return _Jumps(tuple(Knot(at, bend, 0.0) for at, _, bend in self.knots if bend))


@dataclass(frozen=True)
class _Jumps(PSP):
    """A shape that is what its knots say."""

    held: tuple[Knot, ...]

    @property
    def knots(self) -> tuple[Knot, ...]:
        return self.held


@register_setting
@dataclass(frozen=True, kw_only=True)
class LinearPSP(PSP):
    """``ε(x) = x/τ`` for ``x > 0``, without bound (rectified linear, "ReL-PSP").

    Attributes:
        tau: ``τ``, steps after which the potential of one spike has grown to its weight.

    Raises:
        SpiketuneError: on a time that is not above 0.

    Source: Zhang et al. 2020 (rectified linear postsynaptic potential).

    Example:
        >>> LinearPSP(tau=4.0).value(torch.tensor([2.0, 8.0])).tolist()
        [0.5, 2.0]
    """

    tau: float = 16.0

    def __post_init__(self) -> None:
        _require_times(self, tau=self.tau)

    @property
    def knots(self) -> tuple[Knot, ...]:
        """One, at the spike."""
        return (Knot(0.0, 0.0, 1 / self.tau),)


@register_setting
@dataclass(frozen=True, kw_only=True)
class RampPSP(PSP):
    """``ε(x) = min(x/τ, 1)`` for ``x > 0``: it rises for ``τ`` steps and stays.

    Attributes:
        tau: ``τ``, in steps.

    Raises:
        SpiketuneError: on a time that is not above 0.

    Example:
        >>> RampPSP(tau=4.0).value(torch.tensor([2.0, 8.0])).tolist()
        [0.5, 1.0]
    """

    tau: float = 16.0

    def __post_init__(self) -> None:
        _require_times(self, tau=self.tau)

    @property
    def knots(self) -> tuple[Knot, ...]:
        """Two: where it begins to rise, and where it ends."""
        return Knot(0.0, 0.0, 1 / self.tau), Knot(self.tau, 0.0, -1 / self.tau)


@register_setting
@dataclass(frozen=True, kw_only=True)
class TrianglePSP(PSP):
    """``ε`` rises to 1 within ``rise`` steps and falls to 0 within ``fall`` more.

    Not to be taken for ``Triangle``, the slope of a surrogate gradient.

    Attributes:
        rise: in steps.
        fall: in steps.

    Raises:
        SpiketuneError: on a time that is not above 0.

    Example:
        >>> TrianglePSP(rise=2.0, fall=4.0).value(torch.tensor([1.0, 2.0, 4.0, 9.0])).tolist()
        [0.5, 1.0, 0.5, 0.0]
    """

    rise: float = 8.0
    fall: float = 16.0

    def __post_init__(self) -> None:
        _require_times(self, rise=self.rise, fall=self.fall)

    @property
    def knots(self) -> tuple[Knot, ...]:
        """Three: the foot, the top, the other foot."""
        up, down = 1 / self.rise, 1 / self.fall
        end = self.rise + self.fall
        return Knot(0.0, 0.0, up), Knot(self.rise, 0.0, -up - down), Knot(end, 0.0, down)


@register_setting
@dataclass(frozen=True, kw_only=True)
class StepPSP(PSP):
    """``ε(x) = 1[x >= 0]``: a spike adds its weight at once and for good.

    The slope of the membrane is zero almost everywhere, so that only ``STiDi(form="s4nn")``, or
    ``form="displacement"`` with its least slope, can train it.

    Source: Kheradpisheh & Masquelier 2020 (S4NN), neurons without leak.

    Example:
        >>> StepPSP().value(torch.tensor([-1.0, 0.0, 9.0])).tolist()
        [0.0, 1.0, 1.0]
    """

    @property
    def knots(self) -> tuple[Knot, ...]:
        """One, a jump."""
        return (Knot(0.0, 1.0, 0.0),)


@register_setting
@dataclass(frozen=True, kw_only=True)
class KnotPSP(PSP):
    """Any piecewise linear ``ε``: a line through ``points``, and a slope after the last one.

    A first point above zero is a jump; a spike acts on nothing before it.

    Attributes:
        points: ``((x, ε(x)), ...)`` in steps after the spike, ``x`` rising from 0 on.
        slope: of ``ε`` behind the last point.

    Raises:
        SpiketuneError: on no points, times that do not rise, or what is no finite number.

    Example:
        >>> shape = KnotPSP(points=((0.0, 0.0), (2.0, 1.0), (6.0, 0.0)))
        >>> shape.knots == TrianglePSP(rise=2.0, fall=4.0).knots
        True
    """

    points: tuple[tuple[float, float], ...]
    slope: float = 0.0

    def __post_init__(self) -> None:
        # As lists where it comes from a file.
        points = tuple((x, y) for x, y in self.points)
        if not all(map(number, (self.slope, *chain(*points)))):
            raise SpiketuneError(
                f"KnotPSP: points {points} and slope {self.slope!r} must be finite numbers"
            )
        object.__setattr__(self, "points", points)
        times = [x for x, _ in points]
        if not points or times[0] < 0 or any(b <= a for a, b in pairwise(times)):
            raise SpiketuneError(
                f"KnotPSP: the times {times} must rise, from 0 on, and there must be one; a spike "
                "cannot act before it comes"
            )

    @property
    def knots(self) -> tuple[Knot, ...]:
        """One a point."""
        slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairwise(self.points)]
        before = [0.0, *slopes]
        found = [
            Knot(x, 0.0, after - prior)
            for (x, _), prior, after in zip(self.points, before, [*slopes, self.slope], strict=True)
        ]
        first = found[0]
        return first._replace(jump=self.points[0][1]), *found[1:]


def _require_times(psp: PSP, **times: float) -> None:
    for name, value in times.items():
        if not positive(value):
            raise SpiketuneError(
                f"{type(psp).__name__}: {name} must be a number of steps above 0, not {value!r}"
            )
