"""Soft LIF: the firing rate of leaky neurons that rest after a spike, smooth enough to be trained.

A membrane follows ``τ_rc dv/dt = J - v``, fires at 1 and then rests at 0 for ``τ_ref``. A constant
current ``J`` makes it fire at

    ``r(J) = A / (τ_ref + τ_rc ln(1 + 1/ρ(J - 1)))``,   ``ρ(x) = max(x, 0)``,

``A`` being the size of one spike. The slope is infinite at ``J = 1``. The soft curve takes
``ρ(x) = γ ln(1 + exp(x/γ))`` instead, which is smooth and tends to the hard one as ``γ`` goes to 0:

    ``dr/dJ = r² τ_rc/A · σ(x/γ) / (ρ (1 + ρ))``.

A network of ANN layers is trained with it, and its neurons fire when it is deployed: ``RateLIF``.

Source: Hunsberger & Eliasmith 2015 and 2016 (soft LIF).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import SpiketuneError
from .ops import register_function

# Below, softplus(z) is exp(z) but for a part in 10⁹, so that ln(1 + 1/ρ) grows as -z.
_FAR = -20.0


def soft_lif(
    current: Tensor,
    *,
    tau_rc: float = 0.02,
    tau_ref: float = 0.002,
    gamma: float = 0.02,
    amplitude: float = 0.01,
) -> Tensor:
    """Return the rates ``r(J)``; see the module.

    Args:
        current: ``J``, of any shape; fires from 1 on.
        tau_rc: time constant of the membrane, in seconds.
        tau_ref: rest after a spike, in seconds.
        gamma: ``γ``, in units of the current; 0 for the hard curve.
        amplitude: ``A``; 1 for spikes per second.

    Returns:
        Rates times ``A``, of the shape and type of the current, between 0 and ``A/τ_ref``.

    Raises:
        SpiketuneError: on a time constant or amplitude that is not above 0, or a negative γ.

    Example:
        >>> soft_lif(torch.tensor([0.9, 1.5]), amplitude=1.0)  # in Hz
        tensor([ 5.5460, 41.7149])
    """
    check_curve(tau_rc, tau_ref, gamma, amplitude)
    rates: Tensor = _soft_lif(current, tau_rc, tau_ref, gamma, amplitude)
    return rates


def check_curve(tau_rc: float, tau_ref: float, gamma: float, amplitude: float = 1.0) -> None:
    """Refuse settings that give no curve.

    Raises:
        SpiketuneError: naming the setting.

    Example:
        >>> check_curve(tau_rc=0.02, tau_ref=0.002, gamma=0.0)
    """
    for name, value in (("tau_rc", tau_rc), ("tau_ref", tau_ref), ("amplitude", amplitude)):
        if not 0 < value < math.inf:
            unit = "" if name == "amplitude" else " seconds"
            raise SpiketuneError(f"{name} must be above 0{unit}, not {value}")
    if not 0 <= gamma < math.inf:
        raise SpiketuneError(f"gamma must be at least 0, not {gamma}; 0 gives the hard curve")


@torch.library.custom_op("spiketune::soft_lif", mutates_args=())
def _soft_lif(
    current: Tensor, tau_rc: float, tau_ref: float, gamma: float, amplitude: float
) -> Tensor:
    """Return the rates; one operation, so that a graph shows it as such."""
    x = current.to(torch.promote_types(current.dtype, torch.float32)) - 1
    if gamma == 0:
        log = x.clamp_min_(0).reciprocal_().log1p_()  # infinite below 1: a rate of A/∞ is 0
    else:
        z = x.div_(gamma)
        below = (_FAR - z).clamp_min_(0)
        smooth = functional.softplus(z.clamp_min_(_FAR)).mul_(gamma)
        log = smooth.reciprocal_().log1p_().add_(below)
    rates = log.mul_(tau_rc).add_(tau_ref).reciprocal_().mul_(amplitude)
    return rates.to(current.dtype)


@_soft_lif.register_fake
def _(current: Tensor, tau_rc: float, tau_ref: float, gamma: float, amplitude: float) -> Tensor:
    return torch.empty_like(current)


def _slope(current: Tensor, rates: Tensor, tau_rc: float, gamma: float, amplitude: float) -> Tensor:
    """Return ``dr/dJ``, finite for every finite current."""
    x = current.to(torch.promote_types(current.dtype, torch.float32)) - 1
    if gamma == 0:
        above = x > 0
        x = torch.where(above, x, 1)
        steep = torch.where(above, 1 / (x * (1 + x)), 0)
    else:
        z = (x / gamma).clamp_min(_FAR)
        plus = functional.softplus(z)
        steep = torch.sigmoid(z) / (plus * (gamma + gamma**2 * plus))
    return rates.to(x.dtype).square() * steep * (tau_rc / amplitude)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    current, ctx.tau_rc, _, ctx.gamma, ctx.amplitude = inputs
    ctx.save_for_backward(current, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    current, rates = ctx.saved_tensors
    slope = _slope(current, rates, ctx.tau_rc, ctx.gamma, ctx.amplitude)
    return (grad * slope).to(grad.dtype), None, None, None, None


_soft_lif.register_autograd(_backward, setup_context=_setup)
SOFT_LIF = torch.ops.spiketune.soft_lif.default
register_function(SOFT_LIF)


class SoftLIF(nn.Module):
    """The soft LIF rate as an activation, with noise in training.

    The noise stands for what spikes, filtered by a synapse, make of a rate: they waver about it.
    A network trained with it minds less. Layers in front need biases, about 1 at the start: what
    stays below 1 hardly fires.

    Args:
        tau_rc: time constant of the membrane, in seconds.
        tau_ref: rest after a spike, in seconds.
        gamma: ``γ``, how far the bend is smoothed, in units of the current; 0 for the hard curve.
        amplitude: ``A``, size of one spike; with 0.01 a rate of 100 Hz is 1.
        noise: deviation of the Gaussian noise added in training, in Hz; 10 in the paper.

    Raises:
        SpiketuneError: on settings that give no curve, or negative noise.

    Source: Hunsberger & Eliasmith 2015 and 2016; defaults and the noise of 10 Hz as remembered.

    Example:
        >>> layer = SoftLIF(noise=10.0).eval()
        >>> layer(torch.tensor([1.0, 2.0]))  # 11.38 and 63.04 Hz
        tensor([0.1138, 0.6304])
    """

    def __init__(
        self,
        *,
        tau_rc: float = 0.02,
        tau_ref: float = 0.002,
        gamma: float = 0.02,
        amplitude: float = 0.01,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        check_curve(tau_rc, tau_ref, gamma, amplitude)
        if not 0 <= noise < math.inf:
            raise SpiketuneError(f"noise must be at least 0 Hz, not {noise}; 0 adds none")
        self.tau_rc, self.tau_ref, self.gamma = tau_rc, tau_ref, gamma
        self.amplitude, self.noise = amplitude, noise

    def forward(self, current: Tensor) -> Tensor:
        """Return the rates of ``J``, of any shape."""
        rates = _soft_lif(current, self.tau_rc, self.tau_ref, self.gamma, self.amplitude)
        return waver(rates, self.noise * self.amplitude) if self.training else rates

    def extra_repr(self) -> str:
        """Say the settings."""
        names = ("tau_rc", "tau_ref", "gamma", "amplitude", "noise")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def waver(rates: Tensor, deviation: Tensor | float) -> Tensor:
    """Add Gaussian noise of a deviation, in the units of the rates; none of deviation 0.

    Example:
        >>> waver(torch.ones(2), 0.0)
        tensor([1., 1.])
    """
    if isinstance(deviation, float) and deviation == 0:
        return rates
    return rates + deviation * torch.randn_like(rates)
