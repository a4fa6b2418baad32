"""Say in one sentence which class, or which setting of one, an option names that is not there.

jsonargparse takes a misspelt class for a file or a module, and tells at length why it is neither.
Here options and configuration files are followed along the type hints of their command first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, isabstract, signature
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from spiketune.snn import SpiketuneError

# What goes by a name too, but elsewhere.
_ELSEWHERE = {"--method": "; a paper's recipe goes to convert --recipe, or sweep --recipes"}


@dataclass
class Said:
    """What an option is given, and what the options below it are.

    Example:
        >>> options(["--rule=STDB", "--rule.leak", "0.9"]).below["rule"].below["leak"].value
        '0.9'
    """

    value: object = None
    below: dict[str, Said] = field(default_factory=dict)
    file: str = ""  # where it is first said, if not on the command line

    def put(self, path: Sequence[str], value: object, file: str = "") -> None:
        """Take in one option; another class has other settings, and those before it are gone."""
        if path:
            self.below.setdefault(path[0], Said(file=file)).put(path[1:], value, file)
        elif value != self.value:
            self.value, self.below = value, {}


def options(args: Sequence[str]) -> Said:
    """Return what the options say, configuration files opened where they stand."""
    all_said = Said()
    for place, arg in enumerate(args):
        if not arg.startswith("--"):
            continue
        option, given, value = arg[2:].partition("=")
        if not given and place + 1 < len(args):
            value = args[place + 1]
        file = value if option == "config" else ""
        found = _in_file(file) if file else [(option.removesuffix("+"), value)]
        for name, said in found:
            # Between a class and its settings jsonargparse writes these.
            parts = [p for p in name.split(".") if p not in ("class_path", "init_args")]
            if "help" not in parts:
                all_said.put(parts, said, file)
    return all_said


def _in_file(path: str) -> Iterator[tuple[str, object]]:
    try:
        yield from _inside(yaml.safe_load(Path(path).read_text(encoding="utf-8")), "")
    except (OSError, ValueError, yaml.YAMLError):
        return  # jsonargparse says what is wrong with the file


def _inside(content: object, name: str) -> Iterator[tuple[str, object]]:
    if not isinstance(content, dict):
        yield name, content
        return
    for key in sorted(content, key=lambda key: key != "class_path"):  # it comes first
        yield from _inside(content[key], f"{name}.{key}" if name else str(key))


def require_known(said: Said, holder: Any, kinds: tuple[type, ...], option: str = "--") -> None:
    """Refuse names that no class has, and settings that a class does not have.

    Args:
        said: what the options say.
        holder: the function or the dataclass whose arguments they are.
        kinds: bases of the classes that are given by name, their settings behind them.
        option: what all of them begin with.

    Raises:
        SpiketuneError: naming the option and near matches.
    """
    hints = get_type_hints(holder)
    hints.pop("return", None)
    for name, one in said.below.items():
        where = f"{option}{name}"
        if name in hints:
            inner = _holder(one, _classes(hints[name]), _default(holder, name), kinds, where)
            if inner is not None:
                require_known(one, inner, kinds, f"{where}.")
        elif is_dataclass(holder) or one.file:  # the parser says it of the command line's own
            what = "setting" if is_dataclass(holder) else "option"
            place, of = f"{one.file}: " * bool(one.file), getattr(holder, "__name__", "")
            raise SpiketuneError(
                f"{place}{where} is no {what} of {of}; {_which(name, list(hints))}"
            )


def _holder(
    one: Said, classes: list[type], default: object, kinds: tuple[type, ...], option: str
) -> type | None:
    """Return the class whose settings the options below one are, None if that is not known."""
    bases = [cls for cls in classes if issubclass(cls, kinds)]
    named = {leaf.__name__: leaf for cls in bases for leaf in _leaves(cls)}
    if not bases:
        return next(filter(is_dataclass, classes), None)
    if isinstance(one.value, str) and one.value != "null":
        if not one.value.isidentifier():
            return None  # a file, or a module's name before that of the class
        if one.value not in named:
            more = _ELSEWHERE.get(option, "")
            which = _which(one.value, list(named), more)
            raise SpiketuneError(f"{option} {one.value} is unknown; {which}")
        _require_complete(one, named[one.value], option)
        return named[one.value]
    if default is not None and not isinstance(default, type):
        return type(default)
    for base in bases:
        if not isabstract(base) and set(one.below) <= set(get_type_hints(base)):
            return base
    having = [n for n, cls in named.items() if set(one.below) <= set(get_type_hints(cls))]
    if one.below:
        raise SpiketuneError(
            f"{option}.{next(iter(one.below))} is a setting of a class that is not named; give "
            f"{option} {' or '.join(sorted(having or named))} before it"
        )
    return None


def _require_complete(one: Said, cls: type, option: str) -> None:
    """Refuse a class with a setting that has no default and is not given."""
    wanted: list[Field[Any]] = list(fields(cls)) if is_dataclass(cls) else []
    for setting in wanted:
        without = setting.default is MISSING and setting.default_factory is MISSING
        if without and setting.name not in one.below:
            raise SpiketuneError(
                f"{option} {cls.__name__} does not go without its {setting.name}; give "
                f"{option}.{setting.name} behind it"
            )


def _classes(hint: object) -> list[type]:
    """Return the classes that a type hint stands for, those of a union one by one."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [part for part in parts if isinstance(part, type)]


def _default(holder: Any, name: str) -> object:
    """Return what an argument is where nothing is said, None if it must be given."""
    if not is_dataclass(holder):
        found = signature(holder).parameters[name].default
        return None if found is Parameter.empty else found
    (one,) = (each for each in fields(holder) if each.name == name)
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


def _leaves(base: type) -> Iterator[type]:
    """Yield the classes below one that stand for something of their own, or that one itself."""
    # One that is made inside a function cannot be named.
    known: list[type] = base.__subclasses__()
    below = [one for one in known if "<locals>" not in one.__qualname__]
    for cls in below:
        yield from _leaves(cls)
    if not below:
        yield base


def _which(name: str, names: list[str], more: str = "") -> str:
    near = get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"it is one of {', '.join(sorted(names))}{more}" if names else "there is none"
