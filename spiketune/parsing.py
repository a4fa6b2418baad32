"""Let a class that is named on the command line have its own defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints

_NAME = "discard_init_args_on_class_path_change"


@contextmanager
def own_defaults() -> Iterator[None]:
    """Keep jsonargparse from handing defaults of one class on to another.

    Where `ATan` is named in place of a default `Sigmoid(alpha=4)`, jsonargparse makes
    `ATan(alpha=4)` of it, since both have an alpha (its issue 460, open in version 4.53). Here what
    equals the defaults of the class before is left out; what was said, in a file or before, stays.

    Example:
        >>> with own_defaults():
        ...     pass
    """
    discard = getattr(_typehints, _NAME, None)
    if discard is None:  # a later version, which may not have the fault; its test would tell
        yield
        return
    parser_of: Any = _typehints.ActionTypeHint.get_class_parser

    def discard_defaults(parser_or_action: Any, before: Any, now: Any) -> None:
        discard(parser_or_action, before, now)
        if not before or "init_args" not in before or before["class_path"] == now["class_path"]:
            return
        defaults, kept = parser_of(before["class_path"], {}).get_defaults(), before["init_args"]
        for name in [key for key in vars(defaults) if key in kept]:
            if kept[name] == defaults[name]:
                kept.pop(name)

    setattr(_typehints, _NAME, discard_defaults)
    try:
        yield
    finally:
        setattr(_typehints, _NAME, discard)
