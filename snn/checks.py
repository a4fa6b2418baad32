"""What the numbers of a setting may be: strings, truth values, NaN and infinity are none."""

from __future__ import annotations

from math import isfinite
from numbers import Real

import torch
from torch import Tensor, nn

from .errors import SpiketuneError


def positive(value: object) -> bool:
    """Return whether it is a finite number above 0.

    Example:
        >>> positive(0.5), positive(0), positive(float("inf")), positive(True), positive("1")
        (True, False, False, False, False)
    """
    return number(value) and value > 0  # type: ignore[operator]


def number(value: object) -> bool:
    """Return whether it is a finite number.

    Example:
        >>> number(-1), number(float("nan")), number(None)
        (True, False, False)
    """
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)


def whole(value: object) -> bool:
    """Return whether it is a whole number, 1 or more.

    Example:
        >>> whole(3), whole(3.0), whole(0)
        (True, False, False)
    """
    return isinstance(value, int) and positive(value)


def leak_of(leak: Tensor | float, like: Tensor) -> nn.Parameter:
    """Return a leak ``λ`` as a parameter that does not train.

    Args:
        leak: one number, or a tensor that fits the neurons.
        like: the threshold, whose type and device it takes.

    Raises:
        SpiketuneError: on what does not lie in (0, 1].

    Example:
        >>> leak_of(0.5, torch.tensor(1.0)).item()
        0.5
    """
    if not (isinstance(leak, Tensor) or number(leak)):
        raise _no_leak(leak)
    value = torch.as_tensor(leak, dtype=like.dtype, device=like.device).detach()
    outside = value[~((value > 0) & (value <= 1))]
    if outside.numel():
        raise _no_leak(round(outside[0].item(), 6))
    return nn.Parameter(value.clone(), requires_grad=False)


def _no_leak(found: object) -> SpiketuneError:
    return SpiketuneError(
        f"a leak must be numbers in (0, 1], not {found!r}; 1 means a neuron without leak"
    )
