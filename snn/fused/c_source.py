"""Write a pointwise program in C: one loop over the places, all steps in registers.

Every operation is rounded as PyTorch rounds it, in the order of the reference: no fused
multiply-adds, true divisions, NaN carried through minima and maxima, bfloat16 rounded after each
operation. So spikes are the reference's to the last bit; only functions such as ``exp`` may differ
from PyTorch's there, and with them the membranes of a neuron whose decay is computed by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .pointwise import Kind, Line, Program, UnknownOperation

_HEAD = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

/* glibc has these for whole vectors, and tells GCC so only under -ffast-math. */
#if defined(__GLIBC__) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VECTOR __attribute__((__simd__("notinbranch")))
extern double exp(double) VECTOR;
extern float expf(float) VECTOR;
extern double log(double) VECTOR;
extern float logf(float) VECTOR;
extern double pow(double, double) VECTOR;
extern float powf(float, float) VECTOR;
#if __GLIBC_PREREQ(2, 35)
extern double tanh(double) VECTOR;
extern float tanhf(float) VECTOR;
#endif
#endif

static inline float of_half(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline uint16_t to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return x != x ? (uint16_t)0x7fc0 : (uint16_t)rounded;
}
static inline int32_t bits_of_float(float x) { int32_t y; memcpy(&y, &x, 4); return y; }
static inline float float_of_bits(int32_t x) { float y; memcpy(&y, &x, 4); return y; }
static inline int64_t bits_of_double(double x) { int64_t y; memcpy(&y, &x, 8); return y; }
static inline double double_of_bits(int64_t x) { double y; memcpy(&y, &x, 8); return y; }
static inline float as_half(float x) { return of_half(to_half(x)); }
"""
# How precisions lie in memory, and in what their values are worked on.
_STORED = {
    torch.float32: "float", torch.float64: "double", torch.bfloat16: "uint16_t",
    torch.bool: "uint8_t", torch.int32: "int32_t", torch.int64: "int64_t",
}  # fmt: skip
_WORKED = {
    torch.float32: "float", torch.float64: "double", torch.bfloat16: "float",
    torch.bool: "int", torch.int32: "int32_t", torch.int64: "int64_t",
}  # fmt: skip
_C: dict[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "abs": "fabs({0})", "ge": "{0} >= {1}", "gt": "{0} > {1}", "le": "{0} <= {1}",
    "lt": "{0} < {1}", "eq": "{0} == {1}", "ne": "{0} != {1}", "where": "{0} ? {1} : {2}",
    # A comparison with NaN is false: the first argument passes, and where the second is NaN it.
    "maximum": "({0} < {1}) | ({1} != {1}) ? {1} : {0}",
    "minimum": "({0} > {1}) | ({1} != {1}) ? {1} : {0}",
    "exp": "exp({0})", "log": "log({0})", "exp2": "exp2({0})", "log2": "log2({0})",
    "sqrt": "sqrt({0})", "tanh": "tanh({0})", "atan": "atan({0})",
    "sigmoid": "1 / (1 + exp(-{0}))", "sigmoid_backward": "{0} * (1 - {1}) * {1}",
    "reciprocal": "1 / {0}", "floor": "floor({0})",
    "ceil": "ceil({0})", "trunc": "trunc({0})", "round": "rint({0})",
    "sign": "({0} > 0) - ({0} < 0)", "and": "{0} & {1}", "or": "{0} | {1}", "not": "!{0}",
    "cast": "{0}", "copysign": "copysign({0}, {1})",
}  # fmt: skip
_FUNCTIONS = ("fabs(", "exp(", "log(", "exp2(", "log2(", "sqrt(", "tanh(", "atan(", "floor(",
              "ceil(", "trunc(", "rint(", "pow(", "copysign(")  # fmt: skip


def c_source(program: Program) -> str:
    """Return C for a program, a function ``kernel`` over all places.

    Its arguments: how many rows, how wide a row (rows of one place where settings are single
    numbers), threads, the address of each argument and output, the elements from step to step of
    each argument.

    Raises:
        UnknownOperation: naming an operation that has no expression.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> from .pointwise import read
        >>> def double(out, x):
        ...     out.copy_(2 * x)
        >>> source = c_source(read(make_fx(double)(torch.empty(1, 5), torch.empty(1, 5))))
        >>> "2" in source and "omp" in source
        True
    """
    body = [f"const {_worked(line)} {line.name} = {_expression(program, line)};"
            for line in program.lines]  # fmt: skip
    for place, step, value in program.stores:
        # A sample has no steps: its stride is 0.
        body.append(
            _write(f"a{place}[{step} * step[{place}] + i]", program.inputs[place][1], value)
        )
    first = len(program.inputs)
    for place, value in enumerate(program.outputs):
        if isinstance(value, Line):
            body.append(_write(f"a{first + place}[i]", value.dtype, value))
    inner = "\n            ".join(body)
    return f"{_HEAD}\n{_SIGNATURE}{{\n    {_pointers(program)}\n{_loops(program.wide, inner)}}}\n"


_SIGNATURE = (
    "void kernel(int64_t rows, int64_t width, int threads, void **at, const int64_t *step) "
)


def _loops(wide: bool, inner: str) -> str:
    parallel = "#pragma omp parallel for num_threads(threads) schedule(static) if(threads > 1)"
    if wide:
        return f"""{parallel}
    for (int64_t row = 0; row < rows; ++row) {{
#pragma omp simd
        for (int64_t k = 0; k < width; ++k) {{
            const int64_t i = row * width + k;
            {inner}
        }}
    }}
"""
    return f"""{parallel}
    for (int64_t block = 0; block < rows; block += 4096) {{
        const int64_t end = block + 4096 < rows ? block + 4096 : rows;
#pragma omp simd
        for (int64_t i = block; i < end; ++i) {{
            {inner}
        }}
    }}
"""


def _pointers(program: Program) -> str:
    # Not ``restrict``: spikes may be written over their current. Places are loaded before any of
    # them is stored, and ``simd`` says that no place needs another.
    found = []
    for place, (_, dtype) in enumerate(program.inputs):
        const = "" if place in program.written else "const "
        found.append(f"{const}{_stored(dtype)} *a{place} = at[{place}];")
    for place, value in enumerate(program.outputs, len(program.inputs)):
        if isinstance(value, Line):
            found.append(f"{_stored(value.dtype)} *a{place} = at[{place}];")
    return "\n    ".join(found)


def _expression(program: Program, line: Line) -> str:
    if line.op == "load":
        place, time = line.args
        where = {
            Kind.SEQUENCE: f"{time} * step[{place}] + i",
            Kind.SAMPLE: "i", Kind.WIDE: "k", Kind.SINGLE: "0",
        }[program.inputs[place][0]]  # fmt: skip
        value = f"a{place}[{where}]"
        return f"of_half({value})" if line.dtype == torch.bfloat16 else value
    work = _work_of(line)
    if line.op == "bits":
        return _bits(line)
    line = _rounded(line)
    text = _power(line, work) if line.op == "pow" else _template(line).format(
        *(_operand(arg, work) for arg in line.args)
    )  # fmt: skip
    if work == "float":
        for name in _FUNCTIONS:
            text = text.replace(name, f"{name[:-1]}f(")
    if line.dtype == torch.bfloat16:
        return f"as_half({text})"
    # What is kept as a boolean is 0 or 1, whatever it was before.
    return f"({text}) != 0" if line.op == "cast" and line.dtype == torch.bool else text


def _rounded(line: Line) -> Line:
    """Return a line with its numbers rounded where PyTorch rounds them to bfloat16 first."""
    if line.dtype != torch.bfloat16 or line.op not in ("add", "sub", "pow"):
        return line
    args = [float(torch.tensor(a).bfloat16()) if isinstance(a, float) else a for a in line.args]
    return replace(line, args=tuple(args))


def _bits(line: Line) -> str:
    """Return the same bits as a number of another kind."""
    (value,) = line.args
    if line.dtype.is_floating_point:
        return f"{_worked(line)}_of_bits({value.name})"
    return f"bits_of_{_worked(value)}({value.name})"


def _template(line: Line) -> str:
    if line.op not in _C:
        raise UnknownOperation(f"{line.op} has no expression in C")
    return _C[line.op]


def _power(line: Line, work: str) -> str:
    base, exponent = line.args
    own = _operand(base, work)
    as_pytorch = {2: f"{own} * {own}", 3: f"{own} * {own} * {own}", 0.5: f"sqrt({own})"}
    if exponent in as_pytorch:
        return as_pytorch[exponent]
    return f"pow({_operand(base, work)}, {_operand(exponent, work)})"


def _work_of(line: Line) -> str:
    """Return in what an operation is worked: of the result, but of the arguments to compare."""
    kinds = [arg.dtype for arg in line.args if isinstance(arg, Line)]
    if line.op == "where":
        return _worked(line)
    floats = [kind for kind in kinds if kind.is_floating_point]
    if line.dtype == torch.bool and floats:
        found = floats[0]
        for kind in floats[1:]:
            found = torch.promote_types(found, kind)
        return _WORKED[found]
    return _worked(line) if kinds or line.dtype != torch.bool else "double"


def _operand(arg: Any, work: str) -> str:
    if isinstance(arg, Line):
        return arg.name if _worked(arg) in (work, "int") else f"({work}){arg.name}"
    if isinstance(arg, bool | int):
        return f"({work}){int(arg)}"
    if arg != arg or arg in (float("inf"), float("-inf")):
        return {"nan": "NAN", "inf": "INFINITY", "-inf": "(-INFINITY)"}[str(float(arg))]
    return f"({work}){float(arg).hex()}"


def _write(target: str, dtype: torch.dtype, value: Any) -> str:
    text = _operand(value, _WORKED[dtype])
    return f"{target} = {f'to_half({text})' if dtype == torch.bfloat16 else text};"


def _worked(line: Line) -> str:
    return _precision(_WORKED, line.dtype)


def _stored(dtype: torch.dtype) -> str:
    return _precision(_STORED, dtype)


def _precision(names: dict[torch.dtype, str], dtype: torch.dtype) -> str:
    if dtype not in names:
        raise UnknownOperation(f"{dtype} has no type in C")
    return names[dtype]
