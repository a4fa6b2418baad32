"""Compile pointwise programs with the machine's C compiler, and call them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .c_build import library
from .c_source import c_source
from .layout import dense
from .pointwise import Kind, Line, Program, UnknownOperation, read

Kernel = Callable[..., tuple[Tensor | None, ...]]
_forked: list[bool] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


def threads() -> int:
    """Return how many threads a kernel may use: one in a process that was forked.

    The OpenMP of GCC waits there for threads of the parent, which are not in the child.

    Example:
        >>> threads() == torch.get_num_threads()
        True
    """
    return 1 if _forked else torch.get_num_threads()


def c_compiled(function: Callable[..., Any], examples: Sequence[Tensor]) -> Kernel:
    """Trace a function on examples, and compile what it does for tensors of any size.

    Args:
        function: pointwise over ``[T, N]`` or ``[T, M, K]``; writes its first arguments in place.
        examples: arguments to trace with.

    Raises:
        UnknownOperation: naming what it does that is not pointwise.
        NoCompiler: if the machine has no C compiler.
        CannotCompile: if it fails.
        OSError: if what it makes cannot be written or loaded.

    Example:
        >>> def double(out, x):
        ...     out.copy_(2 * x)
        >>> kernel = c_compiled(double, [torch.empty(1, 5), torch.empty(1, 5)])
        >>> out = torch.empty(1, 3)
        >>> kernel(out, torch.ones(1, 3)), out.tolist()
        ((), [[2.0, 2.0, 2.0]])
    """
    program = read(make_fx(function)(*examples))
    refuse_constants(program)
    entry = library(c_source(program)).kernel
    entry.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p,
                      ctypes.c_void_p)  # fmt: skip
    entry.restype = None
    return _Call(program, entry)


def refuse_constants(program: Program) -> None:
    """Refuse outputs that are one number everywhere, for which no precision is known.

    Raises:
        UnknownOperation: naming the number.
    """
    for value in program.outputs:
        if not isinstance(value, Line | None):
            raise UnknownOperation(f"an output that is {value} everywhere")


class _Call:
    """A compiled program as a function of tensors."""

    def __init__(self, program: Program, entry: Callable[..., None]) -> None:
        self.program, self.entry = program, entry
        kinds = [kind for kind, _ in program.inputs]
        self.count = len(kinds) + len(program.outputs)
        self.sequence = kinds.index(Kind.SEQUENCE)
        self.addresses = ctypes.c_void_p * self.count
        self.strides = ctypes.c_int64 * len(kinds)

    def __call__(
        self, *tensors: Tensor, into: Sequence[Tensor] | None = None
    ) -> tuple[Tensor | None, ...]:
        """Run; outputs go ``into`` tensors of theirs, which may be arguments, or into new ones."""
        self.check(tensors)
        shape = tensors[self.sequence].shape[1:]
        outputs = list(into or ()) or [
            tensors[0].new_empty(shape, dtype=value.dtype) if isinstance(value, Line) else value
            for value in self.program.outputs
        ]
        given = [
            tensor if dense(tensor, kind) else tensor.contiguous()
            for tensor, (kind, _) in zip(tensors, self.program.inputs, strict=True)
        ]
        assert all(given[place] is tensors[place] for place in self.program.written)
        steps = [
            tensor.stride(0) if kind is Kind.SEQUENCE else 0
            for tensor, (kind, _) in zip(given, self.program.inputs, strict=True)
        ]
        at = [one.data_ptr() if isinstance(one, Tensor) else None for one in (*given, *outputs)]
        rows, width = (shape[0], shape[1]) if self.program.wide else (shape[0], 1)
        self.entry(rows, width, threads(), self.addresses(*at), self.strides(*steps))
        return tuple(outputs)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Refuse what the program was not written for; C would read it wrongly."""
        given = [(tensor.dtype, tensor.device.type) for tensor in tensors]
        if given != [(dtype, "cpu") for _, dtype in self.program.inputs]:
            raise UnknownOperation(f"a kernel for {self.program.inputs} is given {given}")
