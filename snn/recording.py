"""Work that is recorded once and done again: its tensors apart from all else, and who may see it.

What runs in a recording must not look at the values that it computes, for a look is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode


class _Place:
    """Where a tensor stood."""


_PLACE = _Place()
_depth = 0


@contextmanager
def recording() -> Iterator[None]:
    """Say inside the block that operations are being recorded.

    Autocast keeps no weights that it has cast meanwhile: those of a recording are gone afterwards.

    Example:
        >>> with recording():
        ...     is_recording()
        True
    """
    global _depth
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        torch.set_autocast_cache_enabled(cached)


def is_recording() -> bool:
    """Return whether operations are being recorded, so that no value may be looked at.

    Example:
        >>> is_recording()
        False
    """
    return _depth > 0


def is_watched(units: Iterable[nn.Module]) -> bool:
    """Return whether someone sees operations or these modules run, or one of them is in training.

    Example:
        >>> is_watched([nn.ReLU().eval()]), is_watched([nn.ReLU()])
        (False, True)
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _get_current_dispatch_mode() is not None
        or _global_forward_hooks
        or _global_forward_pre_hooks
    ):
        return True
    return any(one.training or one._forward_hooks or one._forward_pre_hooks for one in units)


def over_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return a structure of dicts, lists and tuples, named ones too, its tensors changed.

    Example:
        >>> from spiketune.snn.dynamics import State
        >>> over_tensors(len, {"a": State(torch.zeros(3), count=2)})
        {'a': State(membrane=3, tracer=None, count=2, extra=())}
    """
    return _over(lambda part: change(part) if isinstance(part, Tensor) else part, value)


def apart(value: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors of a structure in order, and all else of it.

    Example:
        >>> tensors, rest = apart({"a": [torch.ones(1), 5]})
        >>> together(rest, [7.0])
        {'a': [7.0, 5]}
    """
    tensors: list[Tensor] = []

    def take(tensor: Tensor) -> _Place:
        tensors.append(tensor)
        return _PLACE

    rest = over_tensors(take, value)
    return tensors, rest


def together(rest: Any, tensors: Iterable[Any]) -> Any:
    """Return the structure that ``apart`` took apart, with these in the place of its tensors."""
    given = iter(tensors)
    return _over(lambda part: next(given) if part is _PLACE else part, rest)


def kind_of(value: Any) -> Hashable:
    """Return what of a structure a recording is made for: all but what its tensors hold.

    Example:
        >>> kind_of([torch.zeros(2)]) == kind_of([torch.ones(2)]) != kind_of([torch.ones(3)])
        True
    """
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device)
    if isinstance(value, dict):
        return tuple((key, kind_of(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *map(kind_of, value))
    found: Hashable = value
    return found


def around(device: torch.device) -> Hashable:
    """Return what besides its inputs decides how an operation runs on a device.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     around(torch.device("cpu"))
        (False, torch.bfloat16)
    """
    cast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if cast else None
    return (torch.is_inference_mode_enabled(), dtype)


def _over(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _over(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_over(change, part) for part in value]
        if isinstance(value, list):
            return parts
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return change(value)
