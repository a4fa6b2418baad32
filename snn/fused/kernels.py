"""The kernels made so far, each compiled once in a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .c_build import CannotCompile, NoCompiler
from .c_kernel import c_compiled
from .layout import Layout
from .pointwise import UnknownOperation
from .tracing import SAMPLES, Shape, Stretch
from .triton_kernel import triton_compiled

if TYPE_CHECKING:
    from ..neurons import Neuron

Kernel = Callable[..., tuple[Tensor | None, ...]]
# By the type of device; the machine's own processor is the rest.
COMPILERS: dict[str, Callable[[Callable[..., Any], Sequence[Tensor]], Kernel]] = {
    "cpu": c_compiled,
    "cuda": triton_compiled,
}
# What keeps a kernel from being made; all else is an error of its own.
UNMADE = (UnknownOperation, NoCompiler, CannotCompile, OSError, ImportError)
# One thread makes a kernel at a time: tracing swaps what belongs to the process.
MAKING = threading.RLock()
if hasattr(os, "register_at_fork"):  # nor is a process forked with half of it swapped
    os.register_at_fork(
        before=MAKING.acquire, after_in_parent=MAKING.release, after_in_child=MAKING.release
    )


def compiled(function: Callable[..., Any], examples: Sequence[Tensor]) -> Kernel:
    """Compile what a function does at every place, for tensors of any size.

    Args:
        function: pointwise over ``[T, N]`` or ``[T, M, K]``; writes its first argument in place.
        examples: arguments to trace it with, on the device that the kernel is for.
    """
    device = examples[0].device.type
    if device not in COMPILERS:
        raise UnknownOperation(f"no kernels for tensors on {device}")
    # Hooks around a training step are for what it keeps, not for what is traced meanwhile.
    with saved_tensors_hooks(_as_it_is, _as_it_is):
        return COMPILERS[device](function, examples)


def _as_it_is(kept: Tensor) -> Tensor:
    return kept


def compiled_sequence(
    function: Callable[..., Tensor], steps: int, layout: Layout, given: Sequence[Tensor]
) -> Kernel:
    """Compile a function that returns a sequence as one that writes it into its first argument.

    Args:
        function: pointwise over ``steps`` steps of some arguments.
        steps: ``T``.
        layout: of the arguments, which lie as it has them.
        given: the arguments; examples of their kind stand for them.
    """
    sizes = SAMPLES[:1] if layout.width is None else SAMPLES
    wide = len(sizes)
    shapes = {wide + 1: (steps, *sizes), wide: sizes, 0: ()}
    examples = [
        torch.ones(shapes.get(one.dim(), sizes[1:]), dtype=one.dtype, device=one.device)
        for one in given
    ]

    def write(out: Tensor, *values: Tensor) -> None:
        out.copy_(function(*values))

    return compiled(write, [torch.empty_like(examples[0]), *examples])


@dataclass
class Made:
    """The kernels of one shape.

    Attributes:
        stretch: what they compute.
        forward: ``(sent, current, *values) -> state``, see ``Stretch.forward``.
        after: the state's count after it.
        states: how many tensors a state is.
        backwards: by the places of the tensors that want a gradient and the parts of the state
            that have one, ``(grad, current, sent_grad, *state_grads, *values) -> grads``.
    """

    stretch: Stretch
    forward: Kernel
    after: int
    states: int
    backwards: dict[tuple[tuple[int, ...], tuple[bool, ...]], Kernel] = field(default_factory=dict)


def _raised(key: Hashable, device: str, error: Exception) -> None:
    raise error


@dataclass
class Kernels:
    """Kernels by shape; any number of threads may ask for them.

    Attributes:
        made: those made so far.
        failed: told of the steps ``(shape of the first stretch, all steps)`` and the device whose
            gradient could not be made, and why.

    Example:
        >>> Kernels().made
        {}
    """

    made: dict[Shape, Made] = field(default_factory=dict)
    failed: Callable[[Hashable, str, Exception], None] = _raised

    def of(self, neuron: Neuron, shape: Shape) -> Made:
        """Return the kernels of a shape, the forward one made if it is not there yet."""
        if shape not in self.made:
            with MAKING:
                if shape not in self.made:
                    self.made[shape] = _forward(Stretch(neuron, shape))
        return self.made[shape]

    def steps_of(self, neuron: Neuron, shape: Shape, total: int) -> Stretch:
        """Return so many steps of a shape's neuron as it was when its kernel was made."""
        made = self.of(neuron, shape)
        with MAKING:
            return Stretch(made.stretch.runner.neuron, replace(shape, steps=total))

    def backward_of(
        self,
        neuron: Neuron,
        shape: Shape,
        wanting: tuple[int, ...],
        later: tuple[bool, ...] | None = None,
    ) -> Kernel:
        """Return the backward kernel of a shape, made if it is not there yet.

        Args:
            neuron: of the shape.
            shape: what the kernel is for.
            wanting: places of the tensors that want a gradient.
            later: for which parts of the state after it there is one; by default for none.
        """
        made = self.of(neuron, shape)
        later = (False,) * made.states if later is None else later
        if (wanting, later) not in made.backwards:
            with MAKING:
                if (wanting, later) not in made.backwards:
                    made.backwards[wanting, later] = _backward(made.stretch, wanting, later)
        return made.backwards[wanting, later]


def _forward(stretch: Stretch) -> Made:
    current, tensors, state = stretch.examples()
    values = tensors if stretch.shape.begins else tensors + state
    forward = compiled(stretch.forward, [stretch.sequence(), current, *values])
    return Made(stretch, forward, stretch.after, len(state))


def _backward(stretch: Stretch, wanting: tuple[int, ...], later: tuple[bool, ...]) -> Kernel:
    current, tensors, state = stretch.examples()
    ends = sum(later)

    def backward(
        grad: Tensor, current: Tensor, sent_grad: Tensor, *rest: Tensor
    ) -> tuple[Tensor | None, ...]:
        given = iter(rest[:ends])
        state_grads = [next(given) if one else None for one in later]
        return stretch.backward(grad, current, sent_grad, state_grads, rest[ends:], wanting)

    values: Sequence[Tensor] = tensors if stretch.shape.begins else tensors + state
    # Tensors of their own: one that is given twice is traced as one.
    grads = [torch.ones_like(part) for part, one in zip(state, later, strict=True) if one]
    given = [torch.empty_like(current), current, stretch.sequence(), *grads, *values]
    return compiled(backward, given)
