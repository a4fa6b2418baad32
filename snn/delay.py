"""The axonal delay: what a neuron sends arrives some steps later, and how many can be learned."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .checks import number
from .dynamics import State
from .errors import SpiketuneError
from .neurons import Temporal
from .units import register_unit

Difference = Literal["backward", "central"]


@register_unit
class Delay(Temporal):
    """Send ``y[t] = x[t - floor(d)]``, and nothing before the first has arrived.

    The gradient of ``x`` is that of ``y``, as many steps earlier. A whole number of steps has no
    derivative, so a difference of what is sent stands for it, over all that share the delay:

        ``∂L/∂d := -Σ_t g[t] y'[t]``, ``y'[t] = y[t] - y[t-1]`` or ``(y[t+1] - y[t-1])/2``

    with the gradient ``g`` at ``y``; what has not come yet counts as silent. Weights and synapses
    are linear and the same at every step, so this holds whether spikes or what became of them are
    delayed. The last ``floor(d) + 1`` steps are the state, so that steps may come in chunks.

    Args:
        delay: ``d >= 0`` in steps, a number or of any shape that broadcasts to a sample: ``[]`` for
            a layer, ``[C, 1, 1]`` for channels, ``[C, H, W]`` for neurons. It trains; what an
            update moves below 0 or above the maximum acts as those.
        maximum: of ``d``, at least 1; None for no bound.
        diff: ``backward``, as the authors have it, or ``central``, which is nearer to the true
            change of a smooth ``x`` and does not lean to one side.

    Raises:
        SpiketuneError: on a delay that is negative or no number, or above the maximum.

    Source: Shrestha & Orchard 2018 (SLAYER), axonal delays and their gradient.

    Example:
        >>> late, _ = Delay(torch.tensor([0.0, 2.9]))(torch.eye(4)[:, None, :2])
        >>> late.squeeze(1).T.tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """

    settings = ("maximum", "diff")
    tensors = ("delay",)
    relays = True

    def __init__(
        self,
        delay: Tensor | float,
        *,
        maximum: float | None = None,
        diff: Difference = "central",
    ) -> None:
        super().__init__()
        if diff not in get_args(Difference):
            raise SpiketuneError(f"diff must be backward or central, not {diff!r}")
        if maximum is not None and not (number(maximum) and maximum >= 1):
            raise SpiketuneError(
                f"maximum must be 1 step or more, not {maximum!r}; leave delays out where there is "
                "no time for them"
            )
        self.delay = nn.Parameter(_checked(delay, maximum))
        self.maximum, self.diff = maximum, diff

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """What training keeps the delays within."""
        return {"delay": (0.0, math.inf if self.maximum is None else self.maximum)}

    def steps(self) -> Tensor:
        """Return ``floor(d)``, whole numbers in the shape of the delays.

        Raises:
            SpiketuneError: if a delay is no number any more.
        """
        if not bool(self.delay.isfinite().all()):
            raise SpiketuneError(
                "a delay is NaN or infinite, so the training broke down; lower its learning rate"
            )
        low, high = self.limits["delay"]
        return self.delay.detach().clamp(low, high).floor().long()

    def ann(self, x: Tensor) -> Tensor:
        """Return the value as it is: what does not change arrives all the same."""
        return x

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return ``x [T, B, ...]`` delayed, and the steps that are still on their way."""
        by = self.steps()
        if not _fits(by.shape, x.shape[2:]):
            raise SpiketuneError(
                f"delays of shape {list(by.shape)} for samples of shape {list(x.shape[2:])}; give "
                "one a layer [], a channel or a neuron"
            )
        reach = int(by.max()) + 1  # one more, for the difference at the first step
        before = torch.zeros_like(x[:1]).expand(reach, *x.shape[1:])
        if state is not None:
            before = torch.stack(state.extra)
        given = torch.cat([before, x])
        sent: Tensor = _Delayed.apply(given, self.delay, by, reach, self.diff)
        return sent, State(x[-1], extra=given[-reach:].unbind(0))

    def extra_repr(self) -> str:
        """Say the shape and the settings."""
        return f"delay={list(self.delay.shape)}, maximum={self.maximum}, diff={self.diff!r}"


class _Delayed(torch.autograd.Function):
    """Each place taken from as many steps before; the difference of the steps around backward."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, delay: Tensor, by: Tensor, reach: int, diff: Difference
    ) -> Tensor:
        ctx.save_for_backward(given if delay.requires_grad else None, by)
        ctx.reach, ctx.diff, ctx.dtype = reach, diff, delay.dtype
        return _taken(given, torch.arange(reach, len(given), device=by.device), -by)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given, by = ctx.saved_tensors
        (grad,) = grads
        earlier = found = None
        if ctx.needs_input_grad[0]:
            none = torch.zeros_like(grad[:1]).expand(ctx.reach, *grad.shape[1:])
            places = torch.arange(len(grad) + ctx.reach, device=by.device)
            earlier = _taken(torch.cat([none, grad, none]), places, by)
        if ctx.needs_input_grad[1]:
            given = torch.cat([given, torch.zeros_like(given[:1])])
            # One step before and one after what was sent.
            places = torch.arange(ctx.reach - 1, len(given), device=by.device)
            sent = _taken(given, places, -by)
            slope = _SLOPES[ctx.diff](sent)
            rising = (grad * slope).sum((0, 1), dtype=ctx.dtype)
            found = -rising.sum_to_size(by.shape)
        return earlier, found, None, None, None


_SLOPES = {
    "backward": lambda sent: sent[1:-1] - sent[:-2],
    "central": lambda sent: (sent[2:] - sent[:-2]) / 2,
}


def _checked(delay: Tensor | float, maximum: float | None) -> Tensor:
    """Return delays as a tensor of their own, none of them negative, endless or out of bounds."""
    if not isinstance(delay, Tensor) and not number(delay):
        raise SpiketuneError(f"a delay must be 0 steps or more, not {delay!r}; give a number")
    value = torch.as_tensor(delay, dtype=torch.get_default_dtype()).detach().clone()
    bad = value[~((value >= 0) & value.isfinite())]
    if len(bad):
        raise SpiketuneError(
            f"a delay must be 0 steps or more, not {bad[0].item():g}: nothing arrives before it is "
            "sent; delay what it is to be early to"
        )
    if maximum is not None and bool((value > maximum).any()):
        raise SpiketuneError(
            f"a delay of {value.max().item():g} steps is above maximum={maximum:g}; give one "
            "within, or a larger maximum"
        )
    return value


def _fits(small: tuple[int, ...], sample: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to a sample's."""
    pairs = zip(small[::-1], sample[::-1], strict=False)
    return len(small) <= len(sample) and all(one in (1, size) for one, size in pairs)


def _taken(x: Tensor, places: Tensor, by: Tensor) -> Tensor:
    """Return ``x[places + by]``, place by place, ``by`` broadcastable to a sample."""
    wide = by.reshape(*[1] * (x.dim() - 1 - by.dim()), *by.shape)
    index = places.view(-1, *[1] * (x.dim() - 1)) + wide
    return x.gather(0, index.expand(len(places), *x.shape[1:]))
