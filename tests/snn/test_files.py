"""Files that are there whole or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spiketune.snn.files import whole_file


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path) as partial:
        partial.write_text("first")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_after_an_error_the_one_before_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half of")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_nothing_takes_the_place_of_what_was_not_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), whole_file(tmp_path / "file" / "a.txt"):
        raise AssertionError("there is no such place")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "b.txt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_several_may_write_the_same_at_once(tmp_path: Path) -> None:
    path, both = tmp_path / "a.txt", threading.Barrier(2)

    def write(text: str) -> None:
        with whole_file(path, shared=True) as partial:
            partial.write_text(text[:50])
            both.wait(10)
            with partial.open("a") as file:
                file.write(text[50:])
            both.wait(10)

    texts = ["a" * 100, "b" * 100]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]
