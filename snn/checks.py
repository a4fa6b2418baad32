"""What the numbers of a setting may be: strings, truth values, NaN and infinity are none."""

from __future__ import annotations

from math import isfinite


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
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def whole(value: object) -> bool:
    """Return whether it is a whole number, 1 or more.

    Example:
        >>> whole(3), whole(3.0), whole(0)
        (True, False, False)
    """
    return isinstance(value, int) and positive(value)
