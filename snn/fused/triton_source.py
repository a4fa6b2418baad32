"""Write a pointwise program as one Triton kernel: a place is an element, all steps in registers.

Every operation is rounded as PyTorch's own kernels round it, in the order of the reference: true
divisions, no fused multiply-adds (an option of the launch, see ``triton_kernel``), NaN carried
through minima and maxima. Half precision is held as float32 and rounded after each operation.
"""

from __future__ import annotations

from typing import Any

import torch

from .pointwise import Kind, Line, Program, UnknownOperation
from .triton_words import (
    INTERPRETED,
    LIBRARY,
    POWERS,
    SPECIAL,
    TEXT,
    TRUTHS,
    bits_of,
    by_bits,
    by_cast,
    held,
    is_half,
    kinds_of,
    work_of,
)

_HEAD = '''\
"""One kernel, written by snn/fused/triton_source.py."""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def kernel({arguments}, places, width, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = at < places
'''


def triton_source(program: Program, device: str = "cuda") -> str:
    """Return a Python module with a function ``kernel`` over all places.

    Its arguments: the pointers of arguments and outputs, the elements from step to step of each
    argument that has steps, places, width of a row, the integers to index with, places a block.

    Args:
        program: what to compute.
        device: ``cuda``, or ``cpu`` for Triton's interpreter; PyTorch itself divides by a number
            in two ways.

    Raises:
        UnknownOperation: naming an operation that has no expression.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> from .pointwise import read
        >>> def double(out, x):
        ...     out.copy_(2 * x)
        >>> source = triton_source(read(make_fx(double)(torch.empty(1, 5), torch.empty(1, 5))))
        >>> print(source.splitlines()[-1].strip())
        tl.store(a0 + at, v2, mask=inside)
    """
    return _Printer(program, device).source()


class _Printer:
    """The lines of a kernel, and the constants that stand before them."""

    def __init__(self, program: Program, device: str) -> None:
        self.program, self.device = program, device
        self.constants: dict[str, str] = {}

    def source(self) -> str:
        """Return the module."""
        program = self.program
        body = [text for line in _needed(program) for text in self.line(line)]
        for place, step, value in program.stores:
            where = f"{self.row(place, step)} + at"
            body.append(self.store(where, program.inputs[place][1], value))
        for place, value in enumerate(program.outputs, len(program.inputs)):
            if isinstance(value, Line):
                body.append(self.store(f"a{place} + at", value.dtype, value))
        constants = [f"{name} = {text}" for text, name in self.constants.items()]
        arguments = ", ".join([*pointers(program), *strides(program)])
        lines = "".join(f"    {text}\n" for text in [*constants, *body])
        return _HEAD.format(arguments=arguments) + lines

    def constant(self, value: Any, held: str) -> str:
        """Return the name of a number in a precision; it is no Python number, which has none."""
        number = bool(value) if held == "int1" else value if held[0] == "i" else float(value)
        shown = repr(number)
        if shown in ("inf", "-inf", "nan"):
            shown = f'float("{shown}")'
        text = f"tl.full([], {shown}, tl.{held})"
        return self.constants.setdefault(text, f"c{len(self.constants)}")

    def row(self, place: int, step: int) -> str:
        """Return the pointer to a step of an argument, 64 bits wide however small the stride."""
        if not step or self.program.inputs[place][0] is not Kind.SEQUENCE:
            return f"a{place}"
        return f"a{place} + {self.constant(step, 'int64')} * s{place}"

    def load(self, line: Line) -> str:
        """Return what reads an argument."""
        place, step = line.args
        kind, dtype = self.program.inputs[place]
        if kind is Kind.SINGLE:
            text = f"tl.load(a{place})"
        elif kind is Kind.WIDE:
            text = f"tl.load(a{place} + at % width, mask=inside)"
        else:
            text = f"tl.load({self.row(place, step)} + at, mask=inside)"
        return f"{text}.to(tl.{held(dtype)})" if is_half(dtype) else text

    def store(self, where: str, dtype: torch.dtype, value: Any) -> str:
        """Return what writes a value, already rounded to its precision."""
        text = self.operand(value, held(dtype))
        if is_half(dtype):  # exact, but for numbers, which a cast rounds well enough
            text = f"{text}.to(tl.{str(dtype).removeprefix('torch.')})"
        return f"tl.store({where}, {text}, mask=inside)"

    def line(self, line: Line) -> list[str]:
        """Return the statements that make the value of a line."""
        if line.op == "load":
            return [f"{line.name} = {self.load(line)}"]
        rounded = self.rounded(line.name, line.dtype)
        made = [f"{line.name} = {self.expression(line)}", *rounded]
        if line.op == "pow" and line.args[1] == 3:  # x * x * x, as PyTorch does it
            factor = self.operand(line.args[0], work_of(line))
            made += [f"{line.name} = {line.name} * {factor}", *rounded]
        return made

    def rounded(self, name: str, dtype: torch.dtype) -> list[str]:
        """Return the statements that round a value to half precision, none for other precisions."""
        if not is_half(dtype):
            return []
        bits = dtype == torch.bfloat16 and self.device == "cpu"
        return by_bits(name) if bits else by_cast(name, dtype)

    def expression(self, line: Line) -> str:
        """Return the value of an operation, not yet rounded to half precision."""
        if line.op == "bits":
            return bits_of(line)
        if line.op in TRUTHS and not kinds_of(line):  # as of a state that begins at zero
            return self.constant(TRUTHS[line.op](*line.args), "int1")
        work = work_of(line)
        if line.op == "pow" and line.args[1] in POWERS:
            return POWERS[line.args[1]].format(self.operand(line.args[0], work))
        if line.op == "div" and self.device != "cpu" and not isinstance(line.args[1], Line):
            return f"{self.operand(line.args[0], work)} * {self.reciprocal(line.args[1], work)}"
        if line.op == "where":
            args = [self.operand(line.args[0], "int1")]
            args += [self.operand(arg, work) for arg in line.args[1:]]
        else:
            args = [self.operand(self.number(line, arg), work) for arg in line.args]
        if line.op == "cast" and line.dtype == torch.bool:
            return f"{args[0]} != 0"
        if line.op in SPECIAL:
            return SPECIAL[line.op](args, work, self.library)
        if line.op in LIBRARY:
            return f"{self.library(line.op)}({', '.join(args)})"
        if line.op not in TEXT:
            raise UnknownOperation(f"{line.op} has no expression in Triton")
        return TEXT[line.op].format(*args)

    def operand(self, arg: Any, work: str) -> str:
        """Return a value in the precision that an operation works in."""
        if not isinstance(arg, Line):
            return self.constant(arg, work)
        if held(arg.dtype) == work:
            return arg.name
        return f"({arg.name} != 0)" if work == "int1" else f"{arg.name}.to(tl.{work})"

    def number(self, line: Line, arg: Any) -> Any:
        """Return an argument; a number rounded to half precision where PyTorch does that first."""
        rounds = (*TRUTHS, "add", "sub") if self.device == "cpu" else TRUTHS
        kinds = kinds_of(line)
        if isinstance(arg, Line) or line.op not in rounds or not (kinds and is_half(kinds[0])):
            return arg
        return torch.tensor(arg, dtype=kinds[0]).item()

    def reciprocal(self, number: Any, work: str) -> str:
        """Return ``1/n``: PyTorch multiplies by it on CUDA where the divisor is a number."""
        one = torch.ones((), dtype=getattr(torch, work))
        return self.constant((one / torch.full_like(one, number)).item(), work)

    def library(self, op: str) -> str:
        """Return the function of CUDA's library, or the interpreter's."""
        if self.device != "cpu":
            return f"libdevice.{LIBRARY[op]}"
        if op not in INTERPRETED:
            raise UnknownOperation(f"{op} has no expression in Triton's interpreter")
        return f"tl.{op}"


def pointers(program: Program) -> list[str]:
    """Return the names of a kernel's pointers: of arguments, and of outputs that are computed."""
    count = len(program.inputs)
    outputs = enumerate(program.outputs, count)
    return [f"a{i}" for i in range(count)] + [f"a{i}" for i, v in outputs if isinstance(v, Line)]


def strides(program: Program) -> list[str]:
    """Return the names of the elements from step to step, one for each argument with steps."""
    return [f"s{i}" for i, (kind, _) in enumerate(program.inputs) if kind is Kind.SEQUENCE]


def _needed(program: Program) -> list[Line]:
    """Return the lines that something written or returned depends on."""
    wanted = [value for *_, value in program.stores] + program.outputs
    names = {value.name for value in wanted if isinstance(value, Line)}
    for line in reversed(program.lines):
        if line.name in names:
            names |= {arg.name for arg in line.args if isinstance(arg, Line)}
    return [line for line in program.lines if line.name in names]
