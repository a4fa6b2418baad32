"""Compile pointwise programs with Triton, and launch them on CUDA tensors.

Triton reads a kernel's source from its file, so each is written to the user's cache folder by the
hash of its text; what Triton makes of it Triton keeps itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ..files import whole_file
from .c_build import CannotCompile, cache_folder
from .c_kernel import refuse_constants
from .layout import dense
from .pointwise import Kind, Line, Program, read
from .triton_source import triton_source

Kernel = Callable[..., tuple[Tensor | None, ...]]
# Places of one block, two a thread: a stretch backward holds some forty values of each.
BLOCK = 256
_WARPS = 4


def triton_compiled(function: Callable[..., Any], examples: Sequence[Tensor]) -> Kernel:
    """Trace a function on examples, and make a kernel of what it does for tensors of any size.

    On CPU tensors the kernel runs in Triton's interpreter, which is for tests: the environment
    variable ``TRITON_INTERPRET=1`` must be set before Triton is imported.

    Args:
        function: pointwise over ``[T, N]`` or ``[T, M, K]``; writes its first arguments in place.
        examples: arguments to trace with, on the device that the kernel is for.

    Raises:
        UnknownOperation: naming what it does that is not pointwise.
        ModuleNotFoundError: if Triton is not installed.

    Example:
        >>> def double(out, x):
        ...     out.copy_(2 * x)
        >>> kernel = triton_compiled(double, [torch.empty(1, 5)] * 2)  # doctest: +SKIP
    """
    program = read(make_fx(function)(*examples))
    refuse_constants(program)
    return _Call(program, _module(triton_source(program, examples[0].device.type)))


class _Call:
    """A kernel as a function of tensors."""

    def __init__(self, program: Program, module: ModuleType) -> None:
        self.program, self.module = program, module
        self.kinds = [kind for kind, _ in program.inputs]
        self.sequence = self.kinds.index(Kind.SEQUENCE)
        self.ran = False

    def __call__(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        first = tensors[self.sequence]
        shape = first.shape[1:]
        given = [
            tensor if dense(tensor, kind) else tensor.contiguous()
            for tensor, kind in zip(tensors, self.kinds, strict=True)
        ]
        self.check(given, shape)
        outputs = [
            first.new_empty(shape, dtype=value.dtype) if isinstance(value, Line) else None
            for value in self.program.outputs
        ]
        if shape.numel():
            self.launch(given, [one for one in outputs if one is not None], shape)
        for place in self.program.written:
            if given[place] is not tensors[place]:
                tensors[place].copy_(given[place])
        return tuple(outputs)

    def check(self, tensors: Sequence[Tensor], shape: torch.Size) -> None:
        """Refuse tensors of other shapes, which would be read beyond their end."""
        wanted = {Kind.SAMPLE: shape, Kind.WIDE: shape[-1:], Kind.SINGLE: shape[:0]}
        for tensor, kind in zip(tensors, self.kinds, strict=True):
            found = tensor.shape[1:] if kind is Kind.SEQUENCE else tensor.shape
            if found != wanted.get(kind, shape):
                raise ValueError(f"{list(tensor.shape)} where places are {list(shape)}")

    def launch(self, given: Sequence[Tensor], outputs: Sequence[Tensor], shape: torch.Size) -> None:
        """Run the kernel over all places."""
        places, tl = shape.numel(), self.module.tl
        steps = [
            tensor.stride(0)
            for tensor, kind in zip(given, self.kinds, strict=True)
            if kind is Kind.SEQUENCE
        ]
        grid = ((places + BLOCK - 1) // BLOCK,)
        index = tl.int32 if places <= 2**31 - BLOCK else tl.int64
        with torch.cuda.device_of(given[0]), self.compiling():  # type: ignore[no-untyped-call]
            self.module.kernel[grid](
                *given, *outputs, *steps, places, shape[-1], INDEX=index, BLOCK=BLOCK,
                **(_options() if given[0].is_cuda else {}),
            )  # fmt: skip

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Tell what Triton raises at the first launch, when it compiles, from errors of ours.

        On a GPU that it does not know, or without the C compiler that it needs, it raises errors
        of many kinds.

        Raises:
            CannotCompile: with its own words.
        """
        try:
            yield
        except (torch.OutOfMemoryError, ImportError):
            raise
        except Exception as error:
            if self.ran:
                raise
            said = next(iter(str(error).strip().splitlines()), "no reason")
            raise CannotCompile(f"Triton failed, {type(error).__name__}: {said}") from error
        self.ran = True


@cache
def _options() -> dict[str, Any]:
    """Return how to compile: as PyTorch's own kernels are, so that no spike differs.

    A fused multiply-add rounds once where the reference rounds twice, and functions of CUDA's
    library would lose their smallest values.
    """
    options: dict[str, Any] = {"num_warps": _WARPS, "enable_fp_fusion": False}
    if torch.version.hip is None:
        known = importlib.import_module("triton.backends.nvidia.compiler").CUDAOptions
        if "enable_reflect_ftz" in known.__dataclass_fields__:  # of Triton 3.4 and later
            options["enable_reflect_ftz"] = False
    return options


@cache
def _module(source: str) -> ModuleType:
    """Return the module of a source."""
    name = f"spiketune_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    path = cache_folder() / f"{name}.py"
    if not path.exists() or path.read_bytes() != source.encode():
        with whole_file(path, shared=True) as partial:
            partial.write_bytes(source.encode())
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
