"""Triton kernels: their source here, what they compute in processes of their own.

The interpreter replaces Triton's functions for the whole process, and other tests compile.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from spiketune.snn.fused.c_build import CannotCompile
from spiketune.snn.fused.pointwise import Line, UnknownOperation, read
from spiketune.snn.fused.triton_kernel import BLOCK, _Call, _module, _options
from spiketune.snn.fused.triton_source import triton_source

CASES = Path(__file__).with_name("triton_cases.py")
DEVICES = {"interpreter": "1", "cuda": "0"}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
def test_kernels_equal_the_reference(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "ignore", "-p", "no:cacheprovider", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": DEVICES[device], "OMP_NUM_THREADS": "1"},
        cwd=CASES.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = run.stdout.strip().splitlines()[-1:]
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in last[0] and "skipped" not in last[0], last


class Refusing:
    """A kernel that Triton compiles for no GPU, or launches but once."""

    def __init__(self, launches: int) -> None:
        self.launches = launches

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return self.launch

    def launch(self, *_: object, **__: object) -> None:
        self.launches -= 1
        if self.launches < 0:
            raise RuntimeError("ptxas fatal: Value 'sm_61' is not defined\nmore")


@pytest.mark.parametrize("launches", [0, 1])
def test_an_old_gpu_is_told_from_errors_of_later_launches(launches: int) -> None:
    def function(out: Tensor, x: Tensor) -> None:
        out.copy_(2 * x)

    x = torch.ones(1, 5)
    words = SimpleNamespace(int32=None, int64=None)
    module: Any = SimpleNamespace(kernel=Refusing(launches), tl=words)
    call = _Call(read(make_fx(function)(x, x.clone())), module)
    for _ in range(launches):
        call(x.clone(), x)
    expected = RuntimeError if launches else CannotCompile
    with pytest.raises(expected, match="ptxas fatal: Value 'sm_61' is not defined") as raised:
        call(x.clone(), x)
    assert launches or "more" not in str(raised.value)


def source(function: Any, *examples: Tensor, device: str = "cuda") -> str:
    return triton_source(read(make_fx(function)(*examples)), device)


def test_an_operation_without_an_expression_is_named() -> None:
    def function(out: Tensor, x: Tensor) -> None:
        out.copy_(x.tanh())

    x = torch.empty(2, 5)
    assert "libdevice.tanh(" in source(function, x, x.clone())
    with pytest.raises(UnknownOperation, match="tanh has no expression in Triton's interpreter"):
        source(function, x, x.clone(), device="cpu")


def test_a_precision_without_a_type_is_named() -> None:
    def function(out: Tensor, x: Tensor) -> None:
        out.copy_(x + x)

    x = torch.empty(2, 5, dtype=torch.complex64)
    with pytest.raises(UnknownOperation, match=r"torch.complex64 has no type in a Triton kernel"):
        source(function, x, x.clone())


def test_only_what_is_needed_is_read_and_the_same_number_stands_once() -> None:
    def function(out: Tensor, x: Tensor) -> tuple[Tensor]:
        out.copy_((x + 0.5) * 0.5)
        x[1].exp().mul_(2)
        return (x[1],)

    x = torch.empty(2, 5)
    text = source(function, x, x.clone())
    assert text.count("tl.load(a1") == 2 and "tl.load(a0" not in text
    assert text.count("0.5") == 1 and ".exp(" not in text


def test_a_number_divides_on_cuda_as_pytorch_does_there() -> None:
    # BinaryDivTrueKernel.cu multiplies by 1/n, rounded, where n is a number; the CPU divides.
    def function(out: Tensor, x: Tensor) -> None:
        out.copy_(x / 3)

    x = torch.empty(1, 5)
    assert "v1 * c0" in source(function, x, x.clone())
    assert f"{torch.tensor(1 / 3).item()!r}" in source(function, x, x.clone())
    assert "tl.div_rn(v1, c0)" in source(function, x, x.clone(), device="cpu")


def everything(out: Tensor, x: Tensor, setting: Tensor) -> tuple[Tensor, ...]:
    """Every operation that has an expression in Triton, each but once or twice."""
    a, b = x[0], x[1] * setting
    out.copy_(x / setting + x.clamp(-1, 2) * 0.3)
    c = torch.where((a > b) & ~(a == 0) | (b <= 0.5), a.exp() + b.log(), a.tanh() - b.atan())
    d = a.sigmoid() * b.reciprocal() + a.sqrt() - (-b).abs() + a**3 - b**2 + a**1.5
    e = a.floor() + a.ceil() + a.trunc() + a.round() + a.sign() + a.exp2() + b.log2()
    return c, d, e, a.copysign(b), a.minimum(b), (a != b).to(a.dtype), a >= b


def ptx(function: Any, *examples: Tensor) -> str:
    """Compile for a GPU that need not be here: all that Triton does before a launch."""
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    program = read(make_fx(function)(*examples))
    module = _module(triton_source(program))
    stored = [kind for _, kind in program.inputs]
    stored += [value.dtype for value in program.outputs if isinstance(value, Line)]
    named = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16"}
    types = {f"a{i}": named.get(kind, "*i1") for i, kind in enumerate(stored)}
    names = module.kernel.arg_names
    integers = {"s": "i32", "p": "i64", "w": "i32"}
    types |= {name: integers.get(name[0], "constexpr") for name in names if name not in types}
    fixed = {(names.index("INDEX"),): module.tl.int64, (names.index("BLOCK"),): BLOCK}
    made = compiler.compile(
        compiler.ASTSource(module.kernel, types, fixed), target=target, options=_options()
    )
    return str(made.asm["ptx"])


PRECISIONS = [torch.float32, torch.float64, torch.bfloat16]


@needs_triton
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_every_operation_compiles_for_cuda(dtype: torch.dtype) -> None:
    x = torch.ones(2, 4, 5, dtype=dtype)
    text = ptx(everything, x, x.clone(), torch.ones(5, dtype=dtype))
    assert "sqrt.rn" in text and "sqrt.approx" not in text


@needs_triton
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_divisions_are_true_and_no_sum_takes_in_a_product(dtype: torch.dtype) -> None:
    def function(out: Tensor, x: Tensor, y: Tensor) -> None:
        out.copy_(x * y + x / y)

    x = torch.ones(1, 4, dtype=dtype)
    text = ptx(function, x, x.clone(), x[0].clone())
    assert "fma" not in text and "div.full" not in text and "div.approx" not in text
    assert "div.rn.f" in text and "mul" in text and "add" in text
