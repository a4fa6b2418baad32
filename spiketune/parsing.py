"""What jsonargparse would do otherwise: defaults of a class named, errors in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, _typehints

_NAME = "discard_init_args_on_class_path_change"

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "{name: value}",
}
_TYPES = "|".join([*_WORDS, r"Literal\[[^]]*\]"])


class Parser(ArgumentParser):
    """Say what is wrong in one sentence, in place of all options there are.

    Example:
        >>> Parser().error("unrecognized arguments: --frob")
        Traceback (most recent call last):
        ...
        SystemExit: 2
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with exit code 2, the sentence on standard error."""
        if not self.exit_on_error:
            super().error(message, ex)
        prog = getattr(ex, "subcommand_parser", self).prog.replace(" [options]", "")
        self.exit(2, f"spiketune: {_sentence(message)}; see `{prog} --help`\n")


def _sentence(message: str) -> str:
    """Return a message without what it says of Python's types, where it is about a value."""
    plain = " ".join(message.split())
    keys = re.findall(r'Parser key "(\S+)":', plain)
    wanted = re.findall(rf"Expected an? (?:typing\.|<class ')?({_TYPES})", plain)
    given = re.search(r"(?:Got|Given) value: (.*?)(?: - |$)", plain)
    if not keys or not wanted or given is None:
        return re.sub(r'Parser key "(\S+)":', r"--\1:", plain)
    kinds = dict.fromkeys(_WORDS.get(kind) or kind.replace("Literal", "one of ") for kind in wanted)
    return f"--{'.'.join(keys)} must be {' or '.join(kinds)}, not {given[1]}"


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
