"""Build C libraries with the machine's compiler, and keep them in the user's cache folder.

A library's name tells the hash of what it was built from, source, compiler, processor and options,
and that of what is in it: one that was cut short would end the process that loads it.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..files import whole_file

# No contraction: a fused multiply-add rounds once where the reference rounds twice.
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno",
          "-fno-trapping-math", "-shared", "-fPIC", "-lm")  # fmt: skip
# In what a compiler says last.
_ENDINGS = ("exit status", "compilation terminated")


class NoCompiler(Exception):
    """No C compiler was found."""


class CannotCompile(Exception):
    """A compiler was found, and failed."""


def library(source: str) -> ctypes.CDLL:
    """Return the library of a source, compiled now or before.

    Raises:
        NoCompiler: if the machine has no C compiler.
        CannotCompile: with its own words, if it fails.
        OSError: if the library cannot be written or loaded.

    Example:
        >>> library("int seven(void) { return 7; }").seven()
        7
    """
    return ctypes.CDLL(str(built(source)))


def built(source: str) -> Path:
    """Return the file of a source's library.

    Raises:
        NoCompiler: if the machine has no C compiler.
        CannotCompile: with its own words, if it fails.
        OSError: if the file cannot be written.
    """
    compiler = compiler_words()
    key = [source, *compiler, compiler_version(compiler), _processor(), *_FLAGS]
    name, folder = _digest("\n".join(key).encode()), cache_folder()
    for path in folder.glob(f"{name}-*.so"):
        with suppress(OSError):  # another process has thrown it away
            if path.stem == f"{name}-{_digest(path.read_bytes())}":
                return path
            path.unlink()  # cut short, as by a disk that was full
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "made.so"
        _run([*compiler, "-x", "c", "-", "-o", str(made), *_FLAGS], source)
        data = made.read_bytes()
    path = folder / f"{name}-{_digest(data)}.so"
    with whole_file(path, shared=True) as partial:
        partial.write_bytes(data)
    return path


def compiler_words() -> tuple[str, ...]:
    """Return the C compiler and its first options: those of ``$CC``, else cc, gcc or clang.

    Raises:
        NoCompiler: if there is none, or ``$CC`` names one that is not there.
    """
    named = os.environ.get("CC", "").strip()
    if named:
        with suppress(ValueError):  # quotes that do not close
            first, *more = shlex.split(named)
            if (found := shutil.which(first)) is not None:
                return (found, *more)
        raise NoCompiler(f"$CC is {named!r}, which is no command here; mend it, or unset it")
    for name in ("cc", "gcc", "clang"):
        if (found := shutil.which(name)) is not None:
            return (found,)
    raise NoCompiler("no C compiler on the path; install gcc or clang, or name one in $CC")


@cache
def compiler_version(compiler: tuple[str, ...]) -> str:
    """Return what a compiler says of itself.

    Raises:
        CannotCompile: with its own words, if it fails.
    """
    return _run([*compiler, "--version"])


def _run(command: list[str], text: str = "") -> str:
    """Run a command on a text and return what it says."""
    run = subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if run.returncode:
        raise CannotCompile(f"{command[0]} ended with {run.returncode}, {_reason(run.stderr)}")
    return run.stdout


def _reason(said: str) -> str:
    """Return the last line that names what is wrong; those after it point at it or just end."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if not any(words in line for words in _ENDINGS)] or lines
    errors = [line for line in telling if "error" in line.lower()]
    return (errors or telling or ["no reason given"])[-1]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@cache
def _processor() -> str:
    """Return what the machine code depends on, for folders that several machines share."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")][:1] if (
        info.exists()
    ) else []  # fmt: skip
    return "\n".join([platform.machine(), platform.processor(), *flags])


@cache
def cache_folder() -> Path:
    """Return the cache folder; one for this process alone where the user's cannot be written."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "spiketune" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room for a file")
            file.flush()
            return folder
    except (OSError, RuntimeError):  # it cannot be written, or there is no home
        own = Path(tempfile.mkdtemp(prefix="spiketune-kernels-"))
        atexit.register(_removed, own, os.getpid())
        return own


def _removed(folder: Path, owner: int) -> None:
    """Remove a folder at the end of the process that made it, not of those forked from it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
