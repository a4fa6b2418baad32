"""Compile pointwise programs with the machine's C compiler, and call them.

What was compiled once is kept in the user's cache folder, by the hash of the source, the compiler
and the processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .c_source import c_source
from .pointwise import Kind, Line, Program, UnknownOperation, read

Kernel = Callable[..., tuple[Tensor | None, ...]]
# No contraction: a fused multiply-add rounds once where the reference rounds twice.
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno",
          "-fno-trapping-math", "-shared", "-fPIC", "-lm")  # fmt: skip


class NoCompiler(Exception):
    """No C compiler was found."""


def c_compiled(function: Callable[..., Any], examples: Sequence[Tensor]) -> Kernel:
    """Trace a function on examples, and compile what it does for tensors of any size.

    Args:
        function: pointwise over ``[T, N]`` or ``[T, M, K]``; writes its first arguments in place.
        examples: arguments to trace with.

    Raises:
        UnknownOperation: naming what it does that is not pointwise.
        NoCompiler: if the machine has no C compiler.

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
    entry = ctypes.CDLL(str(built(c_source(program)))).kernel
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
            torch.empty(shape, dtype=value.dtype) if isinstance(value, Line) else value
            for value in self.program.outputs
        ]
        given = [
            tensor if _dense(tensor, kind) else tensor.contiguous()
            for tensor, (kind, _) in zip(tensors, self.program.inputs, strict=True)
        ]
        assert all(given[place] is tensors[place] for place in self.program.written)
        steps = [
            tensor.stride(0) if kind is Kind.SEQUENCE else 0
            for tensor, (kind, _) in zip(given, self.program.inputs, strict=True)
        ]
        at = [one.data_ptr() if isinstance(one, Tensor) else None for one in (*given, *outputs)]
        rows, width = (shape[0], shape[1]) if self.program.wide else (shape[0], 1)
        self.entry(rows, width, torch.get_num_threads(), self.addresses(*at), self.strides(*steps))
        return tuple(outputs)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Refuse what the program was not written for; C would read it wrongly."""
        given = [(tensor.dtype, tensor.device.type) for tensor in tensors]
        if given != [(dtype, "cpu") for _, dtype in self.program.inputs]:
            raise UnknownOperation(f"a kernel for {self.program.inputs} is given {given}")


def _dense(tensor: Tensor, kind: Kind) -> bool:
    """Whether the places of a tensor lie side by side, steps wherever they are."""
    return tensor[0].is_contiguous() if kind is Kind.SEQUENCE else tensor.is_contiguous()


def built(source: str) -> Path:
    """Return the library of a source, compiled now or before.

    Raises:
        NoCompiler: if the machine has no C compiler.
        CalledProcessError: if it refuses the source.
    """
    compiler = compiler_path()
    key = "\n".join([source, compiler, compiler_version(compiler), _processor(), *_FLAGS])
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        code, made = Path(work) / "kernel.c", Path(work) / "kernel.so"
        code.write_text(source)
        subprocess.run(
            [compiler, str(code), "-o", str(made), *_FLAGS],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        os.replace(made, path)  # whole or not at all, whoever else builds it now
    return path


def compiler_path() -> str:
    """Return the C compiler: ``$CC``, else ``cc``, ``gcc`` or ``clang``.

    Raises:
        NoCompiler: if there is none.
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    raise NoCompiler("no C compiler on the path; install gcc or clang, or name one in $CC")


@cache
def compiler_version(compiler: str) -> str:
    """Return what a compiler says of itself."""
    run = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    return run.stdout


@cache
def _processor() -> str:
    """Return what the machine code depends on, for folders that several machines share."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")][:1] if (
        info.exists()
    ) else []  # fmt: skip
    return "\n".join([platform.machine(), platform.processor(), *flags])


@cache
def cache_folder() -> Path:
    """Return the cache folder; one for this process alone where the user's cannot be written."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "spiketune" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # it cannot be written, or there is no home
        return Path(tempfile.mkdtemp(prefix="spiketune-kernels-"))
