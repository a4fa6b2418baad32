"""Settings, the frozen dataclasses of neurons and readouts, as plain JSON data and back.

Names are looked up in the registry below, never imported and never evaluated.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, TypeVar

from .dynamics import Firing, HardReset, SoftReset
from .errors import StorageError
from .readout import Delayed, Mean, Membrane
from .schedules import Constant, Geometric, Harmonic
from .surrogate import (
    ATan,
    Laplace,
    Linear,
    PiecewiseLinear,
    Rectangle,
    Scaled,
    Sigmoid,
    SuperSpike,
    Triangle,
)

SETTINGS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Firing, HardReset, SoftReset,
        Delayed, Mean, Membrane,
        Constant, Geometric, Harmonic,
        ATan, Laplace, Linear, PiecewiseLinear, Rectangle, Scaled, Sigmoid, SuperSpike, Triangle,
    )
}  # fmt: skip

Setting = TypeVar("Setting", bound=type)


def register_setting(setting: Setting) -> Setting:
    """Let saved networks hold settings of this type; a decorator of the dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> @register_setting
        ... @dataclass(frozen=True)
        ... class Late:
        ...     by: int = 2
        >>> decode(encode(Late(by=3)), "file")
        Late(by=3)
    """
    SETTINGS[setting.__name__] = setting
    return setting


def encode(value: object) -> Any:
    """Return a settings dataclass as JSON data, its type under ``_type``.

    Example:
        >>> encode(HardReset(to=0.5))
        {'_type': 'HardReset', 'to': 0.5}
    """
    if is_dataclass(value) and not isinstance(value, type):
        fields = {name: encode(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"_type": type(value).__name__, **fields}
    return value


def decode(data: Any, origin: str) -> Any:
    """Return the settings that ``encode`` wrote; only registered types are known.

    Example:
        >>> decode({"_type": "HardReset", "to": 0.5}, "file")
        HardReset(to=0.5)
    """
    if not isinstance(data, dict):
        return data
    name = data.get("_type")
    if name not in SETTINGS:
        raise StorageError(f"{origin}: unknown settings {name!r}; install the spiketune it needs")
    fields = {key: decode(value, origin) for key, value in data.items() if key != "_type"}
    return SETTINGS[name](**fields)
