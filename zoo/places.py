"""Where data sets are looked for, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .errors import TORCHVISION_ERRORS, DataError

__all__ = ["CACHE", "VARIABLE", "find_or_fetch", "places"]

VARIABLE = "SPIKETUNE_DATA"
SYSTEM = (Path("/usr/share/datasets"),)
CACHE = Path("~/.cache/spiketune")

T = TypeVar("T")


def places(name: str, root: str | Path | None = None) -> list[Path]:
    """List the folders in which a data set is looked for, the most deliberate one first.

    Args:
        name: The data set.
        root: The folder the user named.

    Returns:
        The user's folder, ``$SPIKETUNE_DATA``, the system's and the cache, each with its
        subfolder of that name; whether or not they exist.

    Example:
        >>> from spiketune.zoo.places import places
        >>> [str(place) for place in places("mnist", "here")][:2]
        ['here', 'here/mnist']
    """
    bases = [Path(root).expanduser()] if root is not None else []
    if given := os.environ.get(VARIABLE):
        bases.append(Path(given).expanduser())
    named = [place for base in bases for place in (base, base / name)]
    system = [base / name for base in SYSTEM]
    return [*named, *system, CACHE.expanduser() / name]


def find_or_fetch(
    name: str,
    looked: Sequence[Path],
    find: Callable[[Path], T | None],
    download: Callable[[Path], object] | None,
) -> T:
    """Find a data set in one of the places, or download it into the cache.

    Args:
        name: The data set.
        looked: What ``places`` gave.
        find: Returns the data set of a folder, or nothing if it is not there.
        download: Fetches it into a folder; nothing if it is not to be fetched.

    Returns:
        What ``find`` returned.

    Raises:
        DataError: It is nowhere and cannot be fetched.

    Example:
        >>> from pathlib import Path
        >>> from spiketune.zoo.places import find_or_fetch
        >>> find_or_fetch("mine", [Path("a"), Path("b")], lambda place: place.name, None)
        'a'
    """
    for place in looked:
        found = find(place)
        if found is not None:
            return found
    failure = "downloading was not asked for"
    if download is not None:
        target = CACHE.expanduser() / name
        try:
            target.mkdir(parents=True, exist_ok=True)
            download(target)
        except TORCHVISION_ERRORS as error:
            raise DataError(_nowhere(name, looked, _line(error))) from error
        found = find(target)
        if found is not None:
            return found
        failure = f"the download left nothing usable in {target}"
    raise DataError(_nowhere(name, looked, failure))


def _nowhere(name: str, looked: Sequence[Path], failure: str) -> str:
    return (
        f"{name} is in none of {', '.join(map(str, looked))}, and {failure}; "
        f"name its folder with root= (--root on the command line) or ${VARIABLE}"
    )


def _line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split()) or type(error).__name__
    return f"the download failed ({text[:200]})"
