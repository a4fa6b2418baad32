"""Which units a saved network may hold, and what describes each of them.

A unit names what it is described by: ``settings``, plain arguments and attributes of one name, and
``tensors``, parameters and buffers that are arguments too. A file names units; they are looked up
here, never imported and never evaluated.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from .errors import StorageError
from .settings import decode, encode

UNITS: dict[str, type[nn.Module]] = {}

Unit = TypeVar("Unit", bound=type[nn.Module])

# What describes the units that are not ours.
_FOREIGN: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
}


def register_unit(unit: Unit) -> Unit:
    """Let networks that hold a unit be saved; a decorator of its class.

    Example:
        >>> from spiketune.snn import Temporal
        >>> @register_unit
        ... class Twice(Temporal):
        ...     def ann(self, x):
        ...         return 2 * x
        ...     def forward(self, x, state=None):
        ...         return 2 * x, state
        >>> describe_unit(Twice(), "net.twice")
        {'type': 'Twice'}
    """
    UNITS[unit.__name__] = unit
    return unit


for _unit in _FOREIGN:
    register_unit(_unit)


def describe_unit(unit: nn.Module, path: str) -> dict[str, Any]:
    """Return a unit's type and settings as plain data.

    Raises:
        StorageError: on a unit that is not registered, naming its place.
    """
    kind = type(unit).__name__
    if UNITS.get(kind) is not type(unit):
        raise StorageError(f"{path}: a {kind} cannot be saved; only registered units can")
    values = {name: getattr(unit, name) for name in _settings(type(unit))}
    plain = {name: one for name, one in values.items() if not isinstance(one, torch.Tensor)}
    return {"type": kind, **{name: encode(one) for name, one in plain.items()}}


def rebuild_unit(
    data: dict[str, Any], tensors: dict[str, Any], path: str, origin: str
) -> nn.Module:
    """Return the unit of a description, its tensors still empty.

    Raises:
        StorageError: on a unit that is not registered.
    """
    kind, given = data["type"], {key: one for key, one in data.items() if key != "type"}
    if kind not in UNITS:
        raise StorageError(f"{origin}: unknown unit {kind!r}; install the spiketune that wrote it")
    for name in getattr(UNITS[kind], "tensors", ()):
        if f"{path}.{name}" in tensors:
            given[name] = torch.ones(tensors[f"{path}.{name}"]["shape"])
    return UNITS[kind](
        **{key: decode(one, origin) if isinstance(one, dict) else one for key, one in given.items()}
    )


def _settings(kind: type[nn.Module]) -> tuple[str, ...]:
    own: tuple[str, ...] = getattr(kind, "settings", ())
    return _FOREIGN.get(kind, own)
