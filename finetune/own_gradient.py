"""IF and LIF neurons that run as they are, and send a rule's own gradient back to their current."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketune.snn import LIF, Firing, Neuron, State
from spiketune.snn.fused.paths import run_neuron, run_pointwise

# Up to so many steps one kernel does them all at once.
UNROLLED = 16


class Passed(NamedTuple):
    """What is known when a gradient comes back to a layer of neurons.

    Attributes:
        current: ``c [T, B, ...]``.
        error: the gradient at the output ``θ s``, ``[T, B, ...]``.
        membrane: before the first step.
        threshold: ``θ``.
        leak: ``λ``, None for IF neurons.
        later: gradient at the membrane after the last step, None where nothing comes from there.
        firing: how the neurons fire and reset.
        earlier: whether the gradient at ``membrane`` is asked for.

    Example:
        >>> Passed._fields[:2]
        ('current', 'error')
    """

    current: Tensor
    error: Tensor
    membrane: Tensor
    threshold: Tensor
    leak: Tensor | None
    later: Tensor | None
    firing: Firing
    earlier: bool


# To the gradients at the current, and at the membrane before the first step where it is asked for.
Backward = Callable[[Passed], tuple[Tensor, Tensor | None]]
# Of current, error, membrane, threshold, leak, gradient at the membrane after the last step.
Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def run_with_gradient(
    backward: Backward, neuron: Neuron, current: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run an IF or LIF neuron with a gradient of one's own.

    Args:
        backward: the gradient.
        neuron: as it is; spikes and membranes are its own.
        current: ``[T, B, ...]``.
        state: before the first step.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.

    Example:
        >>> from spiketune.snn import IF
        >>> current = torch.full((2, 1), 0.75, requires_grad=True)
        >>> spikes, _ = run_with_gradient(
        ...     lambda passed: (3 * passed.error, None), IF(torch.tensor(1.0)), current,
        ...     State(torch.zeros(1)),
        ... )
        >>> spikes.sum().backward()
        >>> current.grad.flatten()
        tensor([3., 3.])
    """
    spikes, membrane = _Own.apply(current, state.membrane, neuron, backward)
    return spikes, State(membrane)


def over_steps(gradient: Gradient, key: tuple[Any, ...], passed: Passed) -> Tensor:
    """Return the gradient at the current, all steps in one kernel where they are few.

    Args:
        gradient: plain loops over steps; up to ``UNROLLED`` steps nothing in place, no branch on
            a value.
        key: what tells it from other gradients.
        passed: what it is computed from.

    Example:
        >>> one = torch.ones(2, 3)
        >>> passed = Passed(one, one, one[0], torch.tensor(2.0), None, None, Firing(), False)
        >>> def doubled(c, g, v, threshold, leak, later):
        ...     return c + threshold * g
        >>> over_steps(doubled, (doubled,), passed)
        tensor([[3., 3., 3.],
                [3., 3., 3.]])
    """
    current, threshold, leak, later = passed.current, passed.threshold, passed.leak, passed.later

    def pointwise(current: Tensor, error: Tensor, membrane: Tensor, *rest: Tensor) -> Tensor:
        more = list(rest)
        last = None if later is None else more.pop(0)
        own = None if leak is None else more[1]
        return gradient(current, error, membrane, more[0], own, last)

    dtype = torch.promote_types(current.dtype, threshold.dtype)
    sequences = [current.to(dtype), passed.error.to(dtype)]
    known = (one for one in (passed.membrane, later) if one is not None)
    samples = [one.expand(current.shape[1:]) for one in known]
    settings = [threshold] if leak is None else [threshold, leak]
    if len(current) > UNROLLED:
        found = pointwise(*sequences, *samples, *settings)
    else:
        key = (*key, passed.firing, later is None)
        found = run_pointwise(pointwise, key, sequences, samples, settings)
    return found.to(current.dtype)


class _Own(torch.autograd.Function):
    """The neuron's own steps forward; backward what it was given."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, membrane: Tensor, neuron: Neuron, backward: Backward
    ) -> tuple[Tensor, Tensor]:
        spikes, state = run_neuron(neuron, current, State(membrane))
        leak = neuron.leak if isinstance(neuron, LIF) else None
        ctx.save_for_backward(current, membrane, neuron.threshold, leak)
        ctx.firing, ctx.own = neuron.firing, backward
        ctx.set_materialize_grads(False)
        return spikes, state.membrane

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        current, membrane, threshold, leak = ctx.saved_tensors
        error, later = grads
        if error is None:
            error = torch.zeros_like(current)
        found, before = ctx.own(
            Passed(
                current, error, membrane, threshold, leak, later, ctx.firing,
                ctx.needs_input_grad[1],
            )
        )  # fmt: skip
        return found, before, None, None
