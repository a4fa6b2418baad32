"""The words of Triton: an expression for each operation of a pointwise program."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from .pointwise import Line, UnknownOperation

# In what values are held while they are worked on.
_HELD = {
    torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "float32",
    torch.float16: "float32", torch.bool: "int1", torch.int32: "int32", torch.int64: "int64",
}  # fmt: skip
TEXT: dict[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "abs": "tl.abs({0})",
    "ge": "{0} >= {1}", "gt": "{0} > {1}", "le": "{0} <= {1}", "lt": "{0} < {1}",
    "eq": "{0} == {1}", "ne": "{0} != {1}", "where": "tl.where({0}, {1}, {2})",
    # A comparison with NaN is false: where the second is NaN it passes, the first asks for itself.
    "maximum": "tl.where(({0} >= {1}) | ({0} != {0}), {0}, {1})",
    "minimum": "tl.where(({0} <= {1}) | ({0} != {0}), {0}, {1})",
    "floor": "tl.floor({0})", "ceil": "tl.ceil({0})", "and": "{0} & {1}", "or": "{0} | {1}",
    "trunc": "tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))", "cast": "{0}",
    # Triton's minus is 0 - x, which loses the sign of zero.
    "neg": "{0} * -1", "sigmoid_backward": "{0} * (1 - {1}) * {1}", "not": "{0} == 0",
}  # fmt: skip
# Those of CUDA's own library, as PyTorch calls them; the interpreter knows four of them.
LIBRARY = {name: name for name in ("exp", "log", "exp2", "log2", "tanh", "atan", "pow")}
LIBRARY["round"] = "rint"
INTERPRETED = ("exp", "log", "exp2", "log2")
# Those that answer yes or no, and the answer to numbers.
TRUTHS: dict[str, Callable[..., bool]] = {
    name: getattr(operator, name) for name in ("ge", "gt", "le", "lt", "eq", "ne")
}
TRUTHS["not"] = operator.not_
# A third power is multiplied once more, the square rounded in between.
POWERS: dict[Any, str] = {1: "{0}", 2: "{0} * {0}", 3: "{0} * {0}"}
Library = Callable[[str], str]


def held(dtype: torch.dtype) -> str:
    """Return in what Triton holds a precision.

    Raises:
        UnknownOperation: naming one that it does not.

    Example:
        >>> held(torch.bfloat16)
        'float32'
    """
    if dtype not in _HELD:
        raise UnknownOperation(f"{dtype} has no type in a Triton kernel")
    return _HELD[dtype]


def is_half(dtype: torch.dtype) -> bool:
    """Return whether a precision is held in a wider one.

    Example:
        >>> is_half(torch.float16), is_half(torch.float32)
        (True, False)
    """
    return dtype in (torch.bfloat16, torch.float16)


def kinds_of(line: Line) -> list[torch.dtype]:
    """Return the precisions of an operation's arguments that are no numbers."""
    return [arg.dtype for arg in line.args if isinstance(arg, Line)]


def work_of(line: Line) -> str:
    """Return in what an operation is worked: of the result, but of the arguments to compare.

    Raises:
        UnknownOperation: if its arguments are wider than its result.
    """
    kinds = kinds_of(line)
    if line.op in TRUTHS:
        found = kinds[0]
        for kind in kinds[1:]:
            found = torch.promote_types(found, kind)
        # A boolean or an integer beside a number with a fraction is compared as one.
        if not found.is_floating_point and any(isinstance(arg, float) for arg in line.args):
            found = torch.get_default_dtype()
        return held(found)
    if line.op == "cast":
        return held(kinds[0] if kinds and line.dtype == torch.bool else line.dtype)
    values = kinds[1:] if line.op == "where" and isinstance(line.args[0], Line) else kinds
    if is_half(line.dtype) and any(k.is_floating_point and k != line.dtype for k in values):
        raise UnknownOperation(f"{line.op} of {line.dtype} and a wider precision")
    return held(line.dtype)


def bits_of(line: Line) -> str:
    """Return the same bits as a number of another kind.

    Raises:
        UnknownOperation: if a precision is held in a wider one.
    """
    (value,) = line.args
    if not isinstance(value, Line) or is_half(value.dtype) or is_half(line.dtype):
        raise UnknownOperation(f"the bits of {getattr(value, 'dtype', value)} as {line.dtype}")
    return f"{value.name}.to(tl.{held(line.dtype)}, bitcast=True)"


def by_bits(name: str) -> list[str]:
    """Round to bfloat16 on the bits, to the nearest even: the interpreter would cut them off."""
    return [
        f"b = {name}.to(tl.int32, bitcast=True)",
        "b = (b + 32767 + ((b >> 16) & 1)) & -65536",
        f"{name} = tl.where({name} != {name}, {name}, b.to(tl.float32, bitcast=True))",
    ]


def by_cast(name: str, dtype: torch.dtype) -> list[str]:
    """Round to half precision by a cast there and back.

    Compilers drop it only where they may contract, which the launch forbids.

    Example:
        >>> by_cast("v1", torch.float16)
        ['v1 = v1.to(tl.float16).to(tl.float32)']
    """
    return [f"{name} = {name}.to(tl.{str(dtype).removeprefix('torch.')}).to(tl.float32)"]


def _divided(args: list[str], work: str, _: Library) -> str:
    # The sign / is an approximation in float32.
    return f"tl.div_rn({args[0]}, {args[1]})" if work == "float32" else f"{args[0]} / ({args[1]})"


def _reciprocal(args: list[str], work: str, library: Library) -> str:
    return _divided([f"tl.full([], 1.0, tl.{work})", *args], work, library)


def _sigmoid(args: list[str], work: str, library: Library) -> str:
    return _reciprocal([f"1 + {library('exp')}(-{args[0]})"], work, library)


def _root(args: list[str], work: str, _: Library) -> str:
    return f"tl.sqrt_rn({args[0]})" if work == "float32" else f"tl.sqrt({args[0]})"


def _sign(args: list[str], work: str, _: Library) -> str:
    return f"({args[0]} > 0).to(tl.{work}) - ({args[0]} < 0).to(tl.{work})"


def _copysign(args: list[str], work: str, _: Library) -> str:
    bits = {"float32": "int32", "float64": "int64"}[work]
    size = f"tl.abs({args[0]})"
    return f"tl.where({args[1]}.to(tl.{bits}, bitcast=True) < 0, {size} * -1, {size})"


# Those whose expression depends on the precision or the library: ``(args, work, library)``.
SPECIAL: dict[str, Callable[[list[str], str, Library], str]] = {
    "div": _divided, "reciprocal": _reciprocal, "sigmoid": _sigmoid, "sqrt": _root,
    "sign": _sign, "copysign": _copysign,
}  # fmt: skip
