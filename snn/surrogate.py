"""Surrogate slopes: what stands for the derivative of a spike in the backward pass.

A spike is ``s = 1[x >= 0]`` of the distance ``x = v/θ - 1`` between membrane and threshold, in
units of the threshold, so that one width serves every layer of a converted network. Its
derivative is zero almost everywhere; training puts a bump ``h(x)`` in its place:
``ds/dx := h(x)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import positive
from .errors import SpiketuneError


class Surrogate(ABC):
    """A slope ``h(x)`` over the distance to the threshold; subclasses are frozen dataclasses.

    Example:
        >>> Triangle().slope(torch.tensor([0.0, 0.5, 2.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """

    @abstractmethod
    def slope(self, distance: Tensor) -> Tensor:
        """Return ``h(x)``, elementwise, in the shape of ``distance``."""


@dataclass(frozen=True, kw_only=True)
class Triangle(Surrogate):
    """``h(x) = max(0, 1 - |x|/w) / w``: area 1, zero beyond the width.

    Source: Esser et al. 2016; the form used by Deng et al. 2022 (TET).

    Example:
        >>> Triangle(width=0.5).slope(torch.tensor(0.0))
        tensor(2.)
    """

    width: float = 1.0

    def slope(self, distance: Tensor) -> Tensor:
        """Return the triangle's height at ``distance``."""
        return (1 - distance.abs() / self.width).clamp_min(0) / self.width


@dataclass(frozen=True, kw_only=True)
class ATan(Surrogate):
    """``h(x) = (α/2) / (1 + (π α x / 2)²)``: area 1, derivative of an arc tangent.

    Source: Fang et al. 2021 (PLIF, SEW-ResNet), α = 2.

    Example:
        >>> ATan().slope(torch.tensor(0.0))
        tensor(1.)
    """

    alpha: float = 2.0

    def slope(self, distance: Tensor) -> Tensor:
        """Return the arc tangent's derivative at ``distance``."""
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * distance) ** 2)


@dataclass(frozen=True, kw_only=True)
class SuperSpike(Surrogate):
    """``h(x) = 1 / (1 + α|x|)²``: peak 1, area 2/α.

    Source: Zenke & Ganguli 2018; Ledinauskas et al. 2020.

    Example:
        >>> SuperSpike(alpha=1.0).slope(torch.tensor(1.0))
        tensor(0.2500)
    """

    alpha: float = 10.0

    def slope(self, distance: Tensor) -> Tensor:
        """Return the fast sigmoid's derivative at ``distance``."""
        return 1 / (1 + self.alpha * distance.abs()) ** 2


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Surrogate):
    """``h(x) = α σ(αx) (1 - σ(αx))``: area 1, peak α/4.

    Source: Yang 2020 (its width ``a`` is ``1/α``); Xiao et al. 2022 (OTTT), α = 4.

    Example:
        >>> Sigmoid(alpha=4.0).slope(torch.tensor(0.0))
        tensor(1.)
    """

    alpha: float = 4.0

    def slope(self, distance: Tensor) -> Tensor:
        """Return the logistic function's derivative at ``distance``."""
        logistic = torch.sigmoid(self.alpha * distance)
        return self.alpha * logistic * (1 - logistic)


@dataclass(frozen=True, kw_only=True)
class Rectangle(Surrogate):
    """``h(x) = 1[|x| < w/2] / w``: area 1, a box of width w around the threshold.

    Source: Wu et al. 2018 (STBP); Zheng et al. 2021 (tdBN), w = 1.

    Example:
        >>> Rectangle().slope(torch.tensor([0.0, 0.6]))
        tensor([1., 0.])
    """

    width: float = 1.0

    def slope(self, distance: Tensor) -> Tensor:
        """Return the box's height at ``distance``."""
        return (distance.abs() < self.width / 2).to(distance.dtype) / self.width


@dataclass(frozen=True, kw_only=True)
class PiecewiseLinear(Surrogate):
    """``h(x) = 1/(2w)`` for ``|x| <= w``, ``leak`` beyond: a clipped line that never goes dead.

    Example:
        >>> PiecewiseLinear(width=0.5, leak=0.25).slope(torch.tensor([0.0, 3.0]))
        tensor([1.0000, 0.2500])
    """

    width: float = 0.5
    leak: float = 0.01

    def slope(self, distance: Tensor) -> Tensor:
        """Return the line's slope inside the width and the leak outside it."""
        inside = distance.abs() <= self.width
        return torch.full_like(distance, self.leak).masked_fill(inside, 0.5 / self.width)


@dataclass(frozen=True, kw_only=True)
class Linear(Surrogate):
    """``h(x) = γ max(0, 1 - |x|)``: peak and area γ, a low triangle.

    Source: Bellec et al. 2018 (γ = 0.3); the slope of DIET-SNN (Rathi & Roy 2020).

    Example:
        >>> Linear().slope(torch.tensor([0.0, 0.5, 2.0]))
        tensor([0.3000, 0.1500, 0.0000])
    """

    height: float = 0.3

    def slope(self, distance: Tensor) -> Tensor:
        """Return the low triangle's height at ``distance``."""
        return self.height * (1 - distance.abs()).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class Laplace(Surrogate):
    """``h(x) = (a/w) exp(-|x|/w)``: area 2a, a density that falls the same way on both sides.

    SLAYER's spike escape rate: ``ρ(u) = ds/du = h(u/θ - 1)/θ``.

    Attributes:
        scale: ``a``.
        width: ``w``, in thresholds.

    Raises:
        SpiketuneError: on a scale or width that is not above zero.

    Source: Shrestha & Orchard 2018 (SLAYER), the spike escape rate, as their program has it.

    Example:
        >>> Laplace(scale=2.0, width=0.5).slope(torch.tensor(0.0))
        tensor(4.)
    """

    scale: float = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        for name, given in (("scale", self.scale), ("width", self.width)):
            if not positive(given):
                raise SpiketuneError(f"Laplace: {name} must be above zero, not {given!r}; give 1")

    def slope(self, distance: Tensor) -> Tensor:
        """Return the density at ``distance``."""
        return self.scale / self.width * (-distance.abs() / self.width).exp()


@dataclass(frozen=True, kw_only=True)
class Scaled(Surrogate):
    """``g h(x)``: another slope times a gain, as ``calibrate_gain`` finds one for each layer.

    Attributes:
        surrogate: the slope ``h``.
        gain: ``g > 0``.

    Raises:
        SpiketuneError: on a gain that is not above zero.

    Example:
        >>> Scaled(surrogate=Triangle(), gain=2.0).slope(torch.tensor(0.5))
        tensor(1.)
    """

    surrogate: Surrogate
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gain < math.inf:
            raise SpiketuneError(f"a gain must be above zero, not {self.gain}; 1 changes nothing")

    def slope(self, distance: Tensor) -> Tensor:
        """Return the scaled slope's height at ``distance``."""
        return self.gain * self.surrogate.slope(distance)


class _Fire(torch.autograd.Function):
    """Heaviside step forward, surrogate slope backward."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate = surrogate
        return (distance > 0 if strict else distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.slope(distance), None, None


class _FireTransformed(torch.autograd.Function):
    """The same as ``torch.func`` asks for it, which takes twice the time elsewhere."""

    generate_vmap_rule = True
    backward = _Fire.backward

    @staticmethod
    def forward(distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        return (distance > 0 if strict else distance >= 0).to(distance.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate, bool], output: Tensor) -> None:
        distance, ctx.surrogate, _ = inputs
        ctx.save_for_backward(distance)


def fire(distance: Tensor, surrogate: Surrogate, *, strict: bool = False) -> Tensor:
    """Return ``s = 1[x >= 0]`` (``x > 0`` if strict), with ``ds/dx := h(x)`` in the backward pass.

    Args:
        distance: ``x = v/θ - 1``, any shape.
        surrogate: the slope ``h``.
        strict: whether a membrane exactly at the threshold stays silent.

    Returns:
        Zeros and ones in the shape and dtype of ``distance``.

    Example:
        >>> fire(torch.tensor([-0.1, 0.0, 0.1]), Triangle())
        tensor([0., 1., 1.])
    """
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    way = _FireTransformed if transformed else _Fire
    spikes: Tensor = way.apply(distance, surrogate, strict)
    return spikes
