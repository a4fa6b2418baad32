"""What ``eager`` does, in C: each spike goes to the membranes that it reaches, in order of time.

An image's spikes are sorted once, whatever their number of targets; a place whose neurons have all
fired is left alone. Sums run in another order than in ``eager``: answers differ by rounding.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ..fused.c_build import CannotCompile, NoCompiler, built
from ..fused.choices import current_path
from .c_source import SOURCE
from .eager import Crossings, Shares
from .geometry import Geometry
from .psp import PSP

_WORDS = {torch.float32: "float", torch.float64: "double"}
Entry = Callable[..., None]


def kernels_for(times: Tensor, weight: Tensor) -> tuple[Entry, Entry] | None:
    """Return the two kernels, or None where they do not run, or are not to.

    Kernels are taken from the first value on: what is chosen must not change within a training.

    Example:
        >>> kernels_for(torch.zeros(1, dtype=torch.float16), torch.zeros(1)) is None
        True
    """
    types = {times.dtype, weight.dtype}
    here = times.device.type == "cpu" and len(types) == 1 and times.dtype in _WORDS
    if not here or current_path() == "eager":
        return None
    return _made(_WORDS[times.dtype])


@cache
def _made(word: str) -> tuple[Entry, Entry] | None:
    try:
        library = ctypes.CDLL(str(built(SOURCE.replace("REAL", word))))
    except (NoCompiler, CannotCompile, OSError) as error:
        warnings.warn(
            f"spike times are computed without a kernel, some ten times more slowly ({error}); "
            "install gcc or clang, or set SPIKETUNE_NEURONS=eager to silence this",
            stacklevel=6,
        )
        return None
    cross, credit = library.cross, library.credit
    cross.restype = credit.restype = None
    cross.argtypes = (ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 10)
    credit.argtypes = (ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 10)
    return cross, credit


def cross(
    kernel: Entry,
    times: Tensor,
    weight: Tensor,
    geometry: Geometry,
    psp: PSP,
    *,
    threshold: float,
    horizon: float,
) -> Crossings:
    """Return what ``eager.cross`` does."""
    order, places = times.movedim(1, -1).flatten(1).sort(dim=1)
    rows = _rows(weight)
    shape = (len(times), *geometry.places, len(weight))
    fired, slopes, membranes = times.new_empty(3, *shape)
    threads = torch.get_num_threads()
    scratch = times.new_empty(threads, shape[1] * shape[2] * (len(weight) + 1))
    left = torch.empty(threads, shape[1] * shape[2], dtype=torch.long)
    bounds, knots = times.new_tensor([threshold, horizon]), _knots(psp, times.dtype)
    kernel(
        _sizes(geometry, len(times), len(weight), len(psp.knots)), threads,
        *_addresses(bounds, knots, order, places, rows, fired, slopes, membranes, scratch, left),
    )  # fmt: skip
    return Crossings(*(one.movedim(-1, 1) for one in (fired, slopes, membranes)))


def credit(
    kernel: Entry,
    times: Tensor,
    weight: Tensor,
    geometry: Geometry,
    fired: Tensor,
    shares: Shares,
    *,
    horizon: float,
    to_times: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return what ``eager.credit`` does."""
    flat, rows = times.movedim(1, -1).contiguous(), _rows(weight)
    out = [one.movedim(1, -1).contiguous() for one in (fired, *shares[:2])]
    threads = torch.get_num_threads()
    to_rows = rows.new_zeros(threads, *rows.shape)
    back = torch.zeros_like(flat) if to_times else None
    knots = torch.cat([_knots(shares.value, rows.dtype), _knots(shares.slope, rows.dtype)])
    counts = (len(shares.value.knots), len(shares.slope.knots))
    bounds, scratch = times.new_tensor([horizon]), rows.new_empty(threads, len(weight))
    kernel(
        _sizes(geometry, len(times), len(weight), *counts), threads,
        *_addresses(bounds, knots, flat, rows, *out, to_rows, back, scratch),
    )  # fmt: skip
    kernel_shape = (geometry.channels, geometry.rows, geometry.columns, len(weight))
    to_weight = to_rows.sum(0).view(kernel_shape).movedim(-1, 0).contiguous()
    return to_weight, None if back is None else back.movedim(-1, 1)


def _rows(weight: Tensor) -> Tensor:
    """Return weights ``[C h w, K]``: what one spike meets lies side by side."""
    return weight.detach().flatten(1).T.contiguous()


def _knots(psp: PSP, dtype: torch.dtype) -> Tensor:
    return torch.tensor(psp.knots, dtype=dtype)


def _sizes(
    geometry: Geometry, batch: int, neurons: int, *knots: int
) -> ctypes.Array[ctypes.c_int64]:
    found = (
        batch, geometry.channels, geometry.height, geometry.width, geometry.rows, geometry.columns,
        *geometry.stride, *geometry.padding, *geometry.places, neurons, *knots,
    )  # fmt: skip
    return (ctypes.c_int64 * len(found))(*found)


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    # The caller holds the tensors for as long as C uses them.
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
