"""Compilers that are there, are not, or fail; and what the cache folder holds of theirs."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spiketune.snn import IF, neuron_path
from spiketune.snn.fused import c_build, kernels, paths
from spiketune.snn.fused.available import available

SEVEN = "int seven(void) { return 7; }\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Begin with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    c_build.cache_folder.cache_clear()
    yield tmp_path / "cache" / "spiketune" / "kernels"
    c_build.cache_folder.cache_clear()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def outcome() -> list[Tensor]:
    """Return spikes, membrane and gradient of a run over nine steps."""
    torch.manual_seed(0)
    x = torch.randn(9, 2, 11).requires_grad_()
    spikes, state = IF(torch.tensor(0.7))(x)
    ((spikes * torch.arange(11.0)).sum() + state.membrane.square().sum()).backward()
    assert x.grad is not None
    return [spikes, state.membrane, x.grad]


# What is wrong, and what the warning must say of it. Each is set up in a folder of its own.
TROUBLES: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], None], str]] = {}


def trouble(said: str) -> Callable[[Callable[[pytest.MonkeyPatch, Path], None]], None]:
    def add(set_up: Callable[[pytest.MonkeyPatch, Path], None]) -> None:
        TROUBLES[set_up.__name__] = (set_up, said)

    return add


@trouble("/nonexistent/gcc")
def a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setenv("CC", "/nonexistent/gcc -O1")


@trouble("'gcc \"'")
def a_quote_that_does_not_close(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setenv("CC", 'gcc "')


@trouble("no C compiler on the path")
def no_compiler(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")


@trouble("ended with 3, kernel.c:7: error: bad news")
def a_compiler_that_refuses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    said = "first >&2; echo 'kernel.c:7: error: bad news' >&2; echo compilation terminated. >&2"
    body = f'[ "$1" = --version ] && echo mine && exit 0\ncat > /dev/null; echo {said}; exit 3'
    monkeypatch.setenv("CC", str(script(folder / "refuses", body)))


@trouble("ended with 1, I am no compiler")
def no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("CC", str(script(folder / "other", "echo I am no compiler >&2; exit 1")))


@trouble("FileNotFoundError")
def a_compiler_that_makes_nothing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("CC", str(script(folder / "lazy", "cat > /dev/null")))


@trouble("OSError")
def a_compiler_that_makes_something_else(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    write = 'while [ "$1" != -o ]; do shift; [ $# = 0 ] && exit 0; done; cat > "$2"'
    monkeypatch.setenv("CC", str(script(folder / "copies", write)))


@trouble("No space left on device")
def a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    @contextmanager
    def full(path: Path, *, shared: bool = False) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield path

    monkeypatch.setattr(c_build, "whole_file", full)


@trouble("No module named 'triton'")
def no_triton(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def missing(*_: object) -> kernels.Kernel:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setitem(kernels.COMPILERS, "cpu", missing)


@pytest.mark.parametrize("name", TROUBLES)
def test_without_kernels_answers_are_the_same_and_one_warning_says_why(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with neuron_path("eager"):
        expected = outcome()
    set_up, said = TROUBLES[name]
    set_up(monkeypatch, tmp_path)
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    monkeypatch.setattr(paths, "WORTH", 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [outcome(), outcome()]
    assert len(told) == 1 and said in str(told[0].message)
    assert not paths._ways.made and "SPIKETUNE_NEURONS=eager" in str(told[0].message)
    for one in found:
        assert all(map(torch.equal, one, expected))
    assert not list(cache.rglob("*.partial"))
    assert available()["cpu"]  # says it in words, whatever is wrong


def test_a_compiler_of_several_words_compiles(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    wrapper = script(tmp_path / "a cache", f'echo "$@" >> {log}; exec "$@"')
    monkeypatch.setenv("CC", f"'{wrapper}' {shutil.which('cc')} -DOWN=7")
    assert c_build.library("int seven(void) { return OWN; }\n").seven() == 7
    assert "-DOWN=7" in log.read_text() and str(wrapper) in available()["cpu"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "no reason given"),
        ("a.c:1: error: one\na.c:2: error: two\n    2 | x\n      | ^\n", "a.c:2: error: two"),
        ("ld: final link failed: No space\ncollect2: error: ld returned 1 exit status",
         "ld: final link failed: No space"),
        ("cc1: out of memory\ncompilation terminated.\n", "cc1: out of memory"),
        ("compilation terminated.", "compilation terminated."),
    ],
)  # fmt: skip
def test_a_compilers_reason_is_found_in_what_it_says(said: str, reason: str) -> None:
    assert c_build._reason(said) == reason


def test_what_was_built_is_not_built_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = c_build.built(SEVEN)
    assert path.parent == cache

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("subprocess.run", never)
    assert c_build.built(SEVEN) == path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_built_again(cache: Path, share: float) -> None:
    path = c_build.built(SEVEN)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])  # loading it would end the process
    assert ctypes.CDLL(str(c_build.built(SEVEN))).seven() == 7
    assert path.read_bytes() == whole and list(cache.iterdir()) == [path]


def _build(barrier: Barrier) -> None:
    barrier.wait()
    os._exit(c_build.library(SEVEN).seven())


def test_processes_may_build_the_same_at_once(cache: Path) -> None:
    forked = multiprocessing.get_context("fork")
    barrier = forked.Barrier(3)
    others = [forked.Process(target=_build, args=(barrier,)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [7, 7, 7]
    assert len(list(cache.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    code = (
        "from spiketune.snn.fused.c_build import cache_folder, library\n"
        f"assert library({SEVEN!r}).seven() == 7\n"
        "print(cache_folder())\n"
    )
    places = {"XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **places}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    folder = Path(run.stdout.strip())
    assert folder.parent == tmp_path and not folder.exists()  # gone with its process


def test_no_home_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    c_build.cache_folder.cache_clear()
    try:
        assert c_build.cache_folder().parent == tmp_path
    finally:
        c_build.cache_folder.cache_clear()
