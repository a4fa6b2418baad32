"""Layers that take spike times and send spike times: plain modules, in a network's stem.

Times are in steps, ``[B, ...]``; at the horizon ``H`` and behind it there is no spike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..checks import positive, whole
from ..errors import SpiketuneError
from ..units import register_unit
from .crossing import EXACT, Credit, Crossing, spike_times
from .geometry import Geometry
from .psp import PSP, LinearPSP

Pair = tuple[int, int]
Scales = Literal["layer", "neuron"]


class Timed(nn.Module, ABC):
    """Base of the layers whose neurons fire at most once, at an exact time.

    ``V_j(t) = Σ_i w_ji ε(t - t_i)`` fires at ``t_j = min{t: V_j(t) >= θ}``. Binary weights are
    ``α sign(w)`` with a learned ``α > 0``; real ones behind them take the updates.

    Args:
        weight: ``w [K, ...]``.
        psp: ``ε``.
        threshold: ``θ``.
        horizon: ``H``, in steps.
        binary: whether weights are binary; ``α`` begins as the mean of ``|w|``.
        scales: one ``α`` for the layer, or for each neuron, ``[K]``.

    Raises:
        SpiketuneError: on a threshold that is not above 0, a horizon that is no whole number of
            steps, or what is no potential.

    Example:
        >>> isinstance(TimedLinear(torch.ones(3, 4)), Timed)
        True
    """

    settings: tuple[str, ...] = ("psp", "threshold", "horizon", "binary", "scales")
    tensors = ("weight",)
    # Set by training rules; gradients only, no time depends on it.
    credit: Credit = EXACT

    def __init__(
        self,
        weight: Tensor,
        *,
        psp: PSP | None = None,
        threshold: float = 1.0,
        horizon: int = 32,
        binary: bool = False,
        scales: Scales = "layer",
    ) -> None:
        super().__init__()
        if not positive(threshold):
            raise SpiketuneError(
                f"threshold must be a finite number above 0, not {threshold!r}; a membrane starts "
                "at 0"
            )
        if not whole(horizon):
            raise SpiketuneError(
                f"horizon must be a whole number of steps, at least 1, not {horizon!r}"
            )
        self.psp, self.threshold, self.horizon = psp or LinearPSP(), threshold, horizon
        if not isinstance(self.psp, PSP):
            raise SpiketuneError(
                f"psp must be the potential of one spike, such as LinearPSP(tau=16.0), not {psp!r}"
            )
        if not isinstance(binary, bool):
            raise SpiketuneError(f"binary must be true or false, not {binary!r}")
        if scales not in get_args(Scales) or (scales == "neuron" and not binary):
            raise SpiketuneError(
                f"scales must be layer, or of binary weights neuron, not {scales!r}"
            )
        self.scales: Scales = scales
        self.weight = nn.Parameter(weight.detach().clone())
        self.binary = False
        self.log_scale: nn.Parameter | None = None
        if binary:
            self.binarise()

    def binarise(self) -> None:
        """Let weights be ``α sign(w)`` from now on, ``α`` the mean of ``|w|``."""
        size = self.weight.detach().abs()
        mean = size.flatten(1).mean(1) if self.scales == "neuron" else size.mean()
        mean = mean.clamp_min(torch.finfo(size.dtype).tiny)
        if self.log_scale is None:
            self.binary, self.log_scale = True, nn.Parameter(mean.log())
        with torch.no_grad():
            self.log_scale.copy_(mean.log())

    def set_weight(self, weight: Tensor) -> None:
        """Take over weights; of binary ones the signs, and the scale from their mean size."""
        with torch.no_grad():
            self.weight.copy_(weight)
        if self.binary:
            self.binarise()

    @property
    def scale(self) -> Tensor:
        """``α``, one number or one a neuron."""
        return torch.ones(()) if self.log_scale is None else self.log_scale.exp()

    @property
    def used(self) -> Tensor:
        """The weights that spikes meet, those behind them taking the gradient."""
        if self.log_scale is None:
            return self.weight
        # Straight through: ``∂/∂w`` of a sign is taken to be one.
        sign = torch.where(self.weight.detach() >= 0, 1.0, -1.0).to(self.weight.dtype)
        scale = self.scale.view(-1, *[1] * (sign.dim() - 1))
        return scale * sign + (self.weight - self.weight.detach())

    @abstractmethod
    def forward(self, times: Tensor) -> Tensor:
        """Return the times of the neurons, those of silent ones behind the horizon."""

    @abstractmethod
    def arriving(self, times: Tensor) -> Tensor:
        """Return what arrives as ``[B, C, H, W]``, of one place where the layer has no windows."""

    @abstractmethod
    def crossing(self) -> Crossing:
        """Return what its times depend on beside weights."""

    def mean_potentials(self, arriving: Tensor) -> Tensor:
        """Return what each weight is multiplied with at the horizon, ``ε(H - t_i)``, on average.

        Args:
            arriving: times ``[B, C, H, W]``; the mean runs over images and places.
        """
        left = (self.horizon - arriving).clamp_min(0)
        each = self.psp.value(left) * (arriving < self.horizon).to(left.dtype)
        patches = self._geometry(arriving).patches(each.mean(0, keepdim=True), 0.0)
        return patches.mean((0, 1)).view(self.weight.shape[1:])

    def fan_out(self, arriving: Tensor) -> Tensor:
        """Return how many weights one spike meets, ``[C, H, W]``, weights of zero left out."""
        geometry = self._geometry(arriving)
        met = (_window(self.used.detach()) != 0).sum(0).to(arriving.dtype).flatten()
        down, right = geometry.places
        return geometry.gathered(met.expand(1, down * right, -1))[0].round()

    def reached(self, arriving: Tensor) -> Tensor:
        """Return whether any spike reaches each place, ``[B, H', W']``."""
        geometry = self._geometry(arriving)
        earliest = geometry.patches(arriving, self.horizon).amin(2)
        return (earliest < self.horizon).view(len(arriving), *geometry.places)

    def _times(self, arriving: Tensor) -> Tensor:
        weight, real = _window(self.used), _window(self.weight)
        return spike_times(arriving, weight, self.crossing(), real)

    def _geometry(self, arriving: Tensor) -> Geometry:
        crossing = self.crossing()
        return Geometry.of(arriving, _window(self.weight), crossing.stride, crossing.padding)

    def extra_repr(self) -> str:
        """Say sizes and shape."""
        kind = f", binary by {self.scales}" if self.binary else ""
        return f"{list(self.weight.shape)}, {self.psp}, horizon={self.horizon}{kind}"


def _window(weight: Tensor) -> Tensor:
    """Return weights as a convolution's; of a linear layer, over one place."""
    return weight.view(*weight.shape, *[1] * (4 - weight.dim()))


@register_unit
class TimedLinear(Timed):
    """Fully connected neurons that fire once: times ``[B, ...]`` in, ``[B, K]`` out.

    Source: Mirsadeghi et al. 2021 (STiDi-BP); arguments as of ``Timed``, ``weight [K, N]``.

    Example:
        >>> from spiketune.snn import LinearPSP
        >>> layer = TimedLinear(torch.tensor([[0.5, 0.3]]), psp=LinearPSP(tau=1.0), horizon=8)
        >>> layer(torch.tensor([[1.0, 2.0]])).item()
        2.625
    """

    def forward(self, times: Tensor) -> Tensor:
        """Return the times ``[B, K]``."""
        return self._times(self.arriving(times)).flatten(1)

    def arriving(self, times: Tensor) -> Tensor:
        """Return all times as channels of one place."""
        flat = times.flatten(1)
        if flat.shape[1] != self.weight.shape[1]:
            raise SpiketuneError(
                f"a layer of {self.weight.shape[1]} inputs is given {flat.shape[1]} spike times an "
                f"image, {list(times.shape[1:])}; make it with as many"
            )
        return flat[..., None, None]

    def crossing(self) -> Crossing:
        """Return what its times depend on."""
        return Crossing(self.psp, self.threshold, self.horizon, credit=self.credit)


@register_unit
class TimedConv2d(Timed):
    """Convolutional neurons that fire once: times ``[B, C, H, W]`` in, ``[B, K, H', W']`` out.

    Args:
        weight: ``w [K, C, h, w]``.
        stride: of the window, ``(down, right)``.
        padding: places around the image from which no spike comes.
        settings: as of ``Timed``.

    Source: Mirsadeghi et al. 2023 (convolutional STiDi-BP).

    Example:
        >>> layer = TimedConv2d(torch.ones(2, 1, 3, 3))
        >>> list(layer(torch.zeros(1, 1, 5, 5)).shape)
        [1, 2, 3, 3]
    """

    settings = (*Timed.settings, "stride", "padding")

    def __init__(
        self,
        weight: Tensor,
        *,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        psp: PSP | None = None,
        threshold: float = 1.0,
        horizon: int = 32,
        binary: bool = False,
        scales: Scales = "layer",
    ) -> None:
        super().__init__(
            weight, psp=psp, threshold=threshold, horizon=horizon, binary=binary, scales=scales
        )
        # Lists where they come from a file.
        self.stride, self.padding = (stride[0], stride[1]), (padding[0], padding[1])

    def forward(self, times: Tensor) -> Tensor:
        """Return the times ``[B, K, H', W']``."""
        return self._times(self.arriving(times))

    def arriving(self, times: Tensor) -> Tensor:
        """Return the times as they are."""
        rows, columns = self.weight.shape[2:]
        height, width = (
            size + 2 * pad for size, pad in zip(times.shape[2:], self.padding, strict=True)
        )
        if times.dim() != 4 or times.shape[1] != self.weight.shape[1]:
            raise SpiketuneError(
                f"a convolution of {self.weight.shape[1]} channels is given spike times "
                f"{list(times.shape)}; make it with as many channels as arrive"
            )
        if height < rows or width < columns:
            raise SpiketuneError(
                f"a window of {rows}x{columns} does not fit into {height}x{width} spike times; "
                "make it smaller, pad it, or pool less before it"
            )
        return times

    def crossing(self) -> Crossing:
        """Return what its times depend on."""
        return Crossing(
            self.psp, self.threshold, self.horizon, self.stride, self.padding, self.credit
        )
