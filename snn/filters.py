"""The first-order filter over time, forward and backward without a step of autograd's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused.function import still


def low_pass(
    x: Tensor, tau: float, level: Tensor, *, delayed: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``a[t] = r a[t-1] + x[t]/τ``, ``r = 1 - 1/τ``, and the level after the last step.

    Backward it is the same filter with time reversed: ``dx[t] = r dx[t+1] + g[t]/τ``. Nothing is
    kept for that. An ``x`` that repeats one value at every step, as an image's current, gets its
    gradient summed on the way, not a copy for each step.

    Args:
        x: ``[T, B, ...]``.
        tau: ``τ >= 1``, in steps.
        level: ``a`` before the first step, ``[B, ...]``.
        delayed: return ``a[t-1]`` in the place of ``a[t]``: what arrives acts a step later.

    Example:
        >>> x = torch.tensor([[1.0], [0.0], [1.0]])
        >>> low_pass(x, 2.0, torch.zeros(1), delayed=True)[0].flatten().tolist()
        [0.0, 0.5, 0.25]
    """
    held = still(x)
    kept: tuple[Tensor, Tensor] = (
        _LowPass.apply(x, level, tau, delayed)
        if held is None
        else _Held.apply(held, level, tau, delayed, len(x))
    )
    return kept


def _run(x: Tensor, level: Tensor, tau: float, delayed: bool) -> tuple[Tensor, Tensor]:
    """Return what is sent at each step, ``[T, ...]``, and the level after the last."""
    sent = x.new_empty(x.shape)
    for now, arriving in zip(sent, x, strict=True):
        if delayed:
            now.copy_(level)
            level = torch.lerp(level, arriving, 1 / tau)
        else:
            level = torch.lerp(level, arriving, 1 / tau, out=now)
    return sent, level if delayed else level.clone()


def _reversed(grad: Tensor | None, last: Tensor | None, steps: int, delayed: bool) -> list[Tensor]:
    """Return the gradients that arrive at the levels after each step, ``T`` of them."""
    given = list(grad.unbind(0)) if grad is not None else []
    like = given[0] if given else last
    assert like is not None
    given = given or [torch.zeros_like(like)] * steps
    if delayed:  # level t is sent at step t + 1, the last one nowhere
        given = [*given[1:], torch.zeros_like(like)]
    if last is not None:
        given[-1] = given[-1] + last
    return given


class _LowPass(torch.autograd.Function):
    """The filter of what changes from step to step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Tensor, tau: float, delayed: bool) -> Any:
        ctx.tau, ctx.delayed, ctx.steps = tau, delayed, len(x)
        ctx.set_materialize_grads(False)
        return _run(x, level, tau, delayed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, last: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None and last is None:
            return None, None, None, None
        arriving = _reversed(grad, last, ctx.steps, ctx.delayed)
        found = arriving[0].new_empty(ctx.steps, *arriving[0].shape)
        after = torch.zeros_like(arriving[0])
        for now, given in zip(found.unbind(0)[::-1], arriving[::-1], strict=True):
            after = torch.lerp(after, given, 1 / ctx.tau, out=now)
        return found, _of_level(ctx, grad, found[0]), None, None


class _Held(torch.autograd.Function):
    """The filter of a value that is the same at every step, ``[B, ...]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Tensor, tau: float, delayed: bool, steps: int) -> Any:
        ctx.tau, ctx.delayed, ctx.steps = tau, delayed, steps
        ctx.set_materialize_grads(False)
        return _run(x.expand(steps, *x.shape), level, tau, delayed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, last: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None and last is None:
            return None, None, None, None, None
        arriving = _reversed(grad, last, ctx.steps, ctx.delayed)
        total, after = torch.zeros_like(arriving[0]), torch.zeros_like(arriving[0])
        for given in reversed(arriving):
            after = torch.lerp(after, given, 1 / ctx.tau)
            total += after
        return total, _of_level(ctx, grad, after), None, None, None


def _of_level(ctx: Any, grad: Tensor | None, first: Tensor) -> Tensor | None:
    """Return the gradient at the level before the first step, given that at ``x`` in it."""
    if not ctx.needs_input_grad[1]:
        return None
    found: Tensor = first * (ctx.tau - 1)  # r dx/(1/τ)
    return found + grad[0] if ctx.delayed and grad is not None else found
