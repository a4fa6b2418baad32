"""Run a neuron over all steps through kernels, forward and backward.

The time axis goes in stretches of at most ``STRETCH`` steps, unrolled in one kernel each. Kept for
the way back are the current and the state before each stretch. Gradients that shall have gradients
themselves come from the neuron's own steps, run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..dynamics import State
from .kernels import UNMADE, Kernels
from .layout import Layout, layout_of
from .tracing import Shape, parts_of, settings_of, state_of, tensors_of

if TYPE_CHECKING:
    from ..neurons import Neuron

# Steps unrolled in one kernel: enough that states in between cost little, few enough to compile
# in seconds and to stay in registers.
STRETCH = 8


@dataclass(frozen=True)
class Plan:
    """How one call goes through kernels.

    Attributes:
        neuron: the neuron.
        tensors: its tensors by name.
        layout: of the current.
        shape: of the first stretch.
        total: steps of all stretches.
    """

    neuron: Neuron
    tensors: dict[str, Tensor]
    layout: Layout
    shape: Shape
    total: int

    def stretches(self, kernels: Kernels) -> list[tuple[slice, Shape]]:
        """Return what steps go through the kernels of which shape."""
        found, shape = [], self.shape
        for first in range(0, self.total, STRETCH):
            steps = min(STRETCH, self.total - first)
            if first:
                shape = shape.then(steps, kernels.of(self.neuron, shape).after)
            found.append((slice(first, first + steps), shape))
        return found


def watched() -> bool:
    """Return whether someone wants to see the single operations, which a kernel would hide.

    Example:
        >>> watched()
        False
    """
    return (
        torch._C._get_tracing_state() is not None
        or _get_current_dispatch_mode() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def plan(neuron: Neuron, current: Tensor, state: State | None) -> Plan:
    """Return how ``current [T, B, ...]`` goes through kernels from ``state``.

    One that is the same at every step, as an image's, is read once and its gradient summed in the
    kernel.

    Example:
        >>> from spiketune.snn import IF
        >>> plan(IF(torch.tensor(1.0)), torch.zeros(12, 2, 5), None).shape.steps
        8
    """
    tensors = tensors_of(neuron)
    layout = layout_of(current, list(tensors.values()))
    shape = Shape(
        neuron=type(neuron),
        settings=settings_of(neuron),
        tensors=tuple((name, one.numel() == 1, one.dtype) for name, one in tensors.items()),
        flat=layout.width is None,
        steps=min(STRETCH, len(current)),
        count=0 if state is None else state.count,
        begins=state is None,
        still=still(current) is not None,
        dtypes=(current.dtype, neuron.threshold.dtype),
        device=current.device.type,
    )
    return Plan(neuron, tensors, layout, shape, len(current))


def run_planned(
    plan: Plan,
    current: Tensor,
    state: State | None,
    kernels: Kernels,
    *,
    spent: tuple[bool, bool] = (False, False),
) -> tuple[Tensor, State]:
    """Return spikes and state as ``neuron.run`` does, computed by kernels.

    Args:
        plan: from ``plan``.
        current: ``[T, B, ...]``, in the neuron's precision or a lower one.
        state: before the first step; None for a fresh start.
        kernels: those made so far.
        spent: whether nobody needs the current, and the state, afterwards, so that what is made
            without gradients may take their place.
    """
    layout = plan.layout
    same = still(current)
    values = [layout.setting(tensor).contiguous() for tensor in plan.tensors.values()]
    if state is not None:
        # A state may be broadcast over the samples; a kernel reads it place by place.
        expanded = [part.expand(layout.shape) for part in parts_of(state)]
        values += [layout.flat(part).contiguous() for part in expanded]
    given = layout.flat(current if same is None else same)
    if torch.is_grad_enabled():
        sent, *after = _Run.apply(plan, kernels, given, *values)
    else:
        sent, *after = _without_gradient(plan, kernels, given, values, spent)
    last = plan.stretches(kernels)[-1][1]
    parts = [layout.unflat(part, sequence=False) for part in after]
    return layout.unflat(sent, sequence=True), state_of(parts, kernels.of(plan.neuron, last).after)


def still(current: Tensor) -> Tensor | None:
    """Return the one ``[B, ...]`` that a current repeats at every step, None where it does not.

    Example:
        >>> image = torch.ones(2, 3)
        >>> still(image.expand(4, 2, 3)).shape, still(torch.ones(4, 2, 3))
        (torch.Size([2, 3]), None)
    """
    if len(current) == 1 or current.stride(0) != 0:
        return None
    if not current.requires_grad:
        return current[0]
    # Gradients go to what was repeated, not through its T copies, unless those are asked for.
    base, asked = current._base, current.is_leaf or current.retains_grad or current._backward_hooks
    return base if base is not None and not asked and _lie_alike(base, current[0]) else None


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two views of the same memory are the same."""
    same = one.shape == other.shape and one.stride() == other.stride()
    begin = one.storage_offset() == other.storage_offset()
    return bool(same and begin and one.dtype == other.dtype)


def _writable(tensor: Tensor, shape: Shape) -> bool:
    """Whether what a kernel makes fits where a tensor lies, and nothing else lies there."""
    own = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return own and tensor.is_contiguous() and tensor.is_cpu and tensor.dtype == shape.dtype


def _without_gradient(
    plan: Plan, kernels: Kernels, current: Tensor, values: list[Tensor], spent: tuple[bool, bool]
) -> tuple[Tensor, ...]:
    """Run all stretches and keep nothing for a way back.

    Spikes and states are written over currents and states that are ``spent``.
    """
    still, count = plan.shape.still, len(plan.tensors)
    tensors, state = values[:count], values[count:]
    if spent[0] and not still and _writable(current, plan.shape):
        sent = current
    else:
        places = current.shape if still else current.shape[1:]
        sent = current.new_empty((plan.total, *places), dtype=plan.shape.dtype)
    # All are made before the first writes: a failure leaves time to run eagerly.
    run = [(steps, kernels.of(plan.neuron, shape)) for steps, shape in plan.stretches(kernels)]
    over = spent[1] and all(_writable(part, plan.shape) for part in state)
    for steps, made in run:
        now = current if still else current[steps]
        into = {"into": state} if over and state else {}
        found = made.forward(sent[steps], now, *tensors, *state, **into)
        state = [part for part in found if part is not None]
        over = over or current.is_cpu  # the states in between are this function's own
    return (sent, *state)


class _Run(torch.autograd.Function):
    """All stretches, one after the other; backward from the last to the first."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, kernels: Kernels, current: Tensor, *values: Tensor
    ) -> tuple[Tensor, ...]:
        count = len(plan.tensors)
        tensors, state = list(values[:count]), list(values[count:])
        ctx.given = 1 + len(values)
        ctx.wanting = tuple(i for i in range(count) if ctx.needs_input_grad[3 + i])
        still = plan.shape.still
        places = current.shape if still else current.shape[1:]
        sent = current.new_empty((plan.total, *places), dtype=plan.shape.dtype)
        before: list[Tensor] = []
        ctx.stretches = plan.stretches(kernels)
        for steps, shape in ctx.stretches:
            before += state
            if any(ctx.needs_input_grad):  # a failure here leaves time to run eagerly
                kernels.backward_of(plan.neuron, shape, ctx.wanting)
            now = current if still else current[steps]
            made = kernels.of(plan.neuron, shape).forward(sent[steps], now, *tensors, *state)
            state = [part for part in made if part is not None]
        ctx.plan, ctx.kernels, ctx.states = plan, kernels, len(state)
        ctx.save_for_backward(current, *tensors, *before)
        ctx.set_materialize_grads(False)  # the last membrane seldom has one
        return (sent, *state)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # taken once: they may be computed again for it
        # Many gradients at once (is_grads_batched) pass as one that lies nowhere in memory.
        batched = any(grad is not None and not torch._C._has_storage(grad) for grad in grads)
        if not (torch.is_grad_enabled() or watched() or batched):
            try:
                return (None, None, *_through_kernels(ctx, saved, grads))
            except UNMADE as error:
                plan = ctx.plan
                ctx.kernels.failed((plan.shape, plan.total), plan.shape.device, error)
        return (None, None, *_by_steps(ctx, saved[: ctx.given], grads))


def _through_kernels(
    ctx: Any, saved: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of the current, the neuron's tensors and the state before."""
    count, states = len(ctx.plan.tensors), ctx.states
    current, tensors, before = saved[0], saved[1 : 1 + count], saved[1 + count :]
    sent_grad, *later = [None if grad is None else grad.contiguous() for grad in grads]
    still = ctx.plan.shape.still
    if sent_grad is None:
        total = (ctx.plan.total, *current.shape[0 if still else 1 :])
        sent_grad = current.new_zeros(total, dtype=ctx.plan.shape.dtype)
    parts = [_room_for(current)]
    found: dict[int, Tensor] = {}
    for steps, shape in reversed(ctx.stretches):
        state = [] if shape.begins else before[len(before) - states :]
        before = before[: len(before) - len(state)]
        backward = ctx.kernels.backward_of(ctx.plan.neuron, shape, ctx.wanting, _given(later))
        if still:
            parts.append(_room_for(current))
        now, into = (current, parts[-1]) if still else (current[steps], parts[0][steps])
        ends = [grad for grad in later if grad is not None]
        got = backward(into, now, sent_grad[steps], *ends, *tensors, *state)
        later = list(got[: len(state)])
        for place, one in zip(ctx.wanting, got[len(state) :], strict=True):
            if one is not None:
                part = one.sum_to_size(tensors[place].shape)
                found[place] = found[place] + part if place in found else part
    wanted = [found.get(i) for i in range(count)]
    grad = torch.stack(parts[1:]).sum(0) if len(parts) > 2 else parts[-1]
    return [grad, *wanted, *later]


def _by_steps(
    ctx: Any, given: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the same gradients by autograd's way back through the neuron's own steps."""
    plan, create = ctx.plan, torch.is_grad_enabled()
    steps = ctx.kernels.steps_of(plan.neuron, plan.shape, plan.total)
    with torch.enable_grad():
        # Views, for what was given may itself depend on something else that was.
        current, *values = inputs = [one.view_as(one) for one in given]
        outputs = zip(steps.run(current, values), grads, strict=True)
        reached = [(y, dy) for y, dy in outputs if dy is not None and y.requires_grad]
        places = [i for i in range(ctx.given) if ctx.needs_input_grad[2 + i]] if reached else []
        found = torch.autograd.grad(
            [y for y, _ in reached], [inputs[i] for i in places], [dy for _, dy in reached],
            allow_unused=True, create_graph=create,
        ) if places else ()  # fmt: skip
    at = dict(zip(places, found, strict=True))
    return [at.get(i) for i in range(ctx.given)]


def _room_for(current: Tensor) -> Tensor:
    """Return memory for a gradient, places side by side however the current lies."""
    return torch.empty_like(current, memory_format=torch.contiguous_format)


def _given(grads: list[Tensor | None]) -> tuple[bool, ...]:
    """Return for which parts of a state there is a gradient."""
    return tuple(grad is not None for grad in grads)
