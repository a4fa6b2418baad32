"""TIDIGITS and TI46 from the folders that the Linguistic Data Consortium gives out."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .audio import read_audio
from .colour import Request
from .data_sets import Split
from .event_frames import EventFrames
from .event_sets import binned, own_settings
from .events import Events
from .places import find_or_fetch, places
from .recordings import Recording
from .speech import Hearing, hear

__all__ = ["CORPORA", "Corpus", "speech_set"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """How the files of a corpus are laid out.

    Attributes:
        folders: from the user's folder to the one that holds ``train`` and ``test``, by turns.
        speakers: the folders of a split to look through, all of them if there are none.
        name: of a file of one word, its class in the first group.
        classes: the first groups in the order of the labels.

    Example:
        >>> CORPORA["tidigits"].label("Za.wav"), CORPORA["tidigits"].label("12a.wav")
        (0, None)
    """

    folders: tuple[str, ...]
    speakers: tuple[str, ...]
    name: re.Pattern[str]
    classes: tuple[str, ...]

    def label(self, name: str) -> int | None:
        """Return the class that a file's name tells, None for one of several or other words."""
        match = self.name.fullmatch(name.lower())
        return self.classes.index(match[1]) if match else None


CORPORA = {
    "tidigits": Corpus(
        folders=("", "tidigits", "data/adults"),
        speakers=("man", "woman"),  # the 225 adults, 22 isolated digits each, of the papers
        name=re.compile(r"([zo1-9])[ab]\.wav"),
        classes=tuple("z123456789o"),
    ),
    "ti46_digits": Corpus(
        folders=("", "ti20", "ti46/ti20"),
        speakers=(),
        name=re.compile(r"(0[0-9])[fm][0-9].*\.wav"),
        classes=tuple(f"0{digit}" for digit in range(10)),
    ),
    "ti46_alpha": Corpus(
        folders=("", "ti_alpha", "ti46/ti_alpha"),
        speakers=(),
        name=re.compile(r"(0[a-z])[fm][0-9].*\.wav"),
        classes=tuple(f"0{letter}" for letter in LETTERS),
    ),
}


def speech_set(request: Request, keep: Callable[[int], Sequence[int]]) -> EventFrames:
    """Load the isolated words of TIDIGITS or TI46 as spikes.

    Args:
        request: What was asked for; ``frames`` may be ``Hearing``.
        keep: Which of so many recordings to keep.

    Returns:
        The frames ``[T, 2, levels, bands]`` with their labels.

    Raises:
        DataError: The files are nowhere, or damaged.

    Example:
        >>> words = speech_set(Request(name="ti46_digits", split="test"), range)  # doctest: +SKIP
    """
    hearing = own_settings(request, Hearing) or Hearing()
    find = functools.partial(
        _recordings, corpus=CORPORA[request.name], split=request.split, hearing=hearing
    )
    found = find_or_fetch(request.name, places(request.name, request.root), find, None)
    kept = [found[index] for index in keep(len(found))]
    return binned(request, kept, hearing.bins, hearing.sensor)


def _recordings(
    place: Path, corpus: Corpus, split: Split, hearing: Hearing
) -> list[Recording] | None:
    for folder in corpus.folders:
        files = sorted(_files(place, [*folder.split("/"), split], corpus.speakers))
        labelled = ((file, corpus.label(file.name)) for file in files)
        found = [
            Recording(str(file), label, functools.partial(_heard, file, hearing))
            for file, label in labelled
            if label is not None
        ]
        if found:
            return found
    return None


def _files(place: Path, path: list[str], speakers: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below a folder, whose names discs have in either case."""
    for name in filter(None, path):
        below = sorted(place.iterdir()) if place.is_dir() else []
        place = next((one for one in below if one.name.lower() == name), place / name)
    if place.is_dir():
        for one in place.iterdir():
            if one.is_dir() and (not speakers or one.name.lower() in speakers):
                yield from one.rglob("*")


def _heard(file: Path, hearing: Hearing) -> Events:
    return hear(*read_audio(file), hearing, str(file))
