"""Say how neurons run here, before anything is compiled."""

from __future__ import annotations

import importlib.util
import shlex
from importlib.metadata import version

import torch

from .c_build import CannotCompile, NoCompiler, cache_folder, compiler_version, compiler_words
from .choices import current_path


def available() -> dict[str, str]:
    """Return for each device how neurons run there, in words, by the path chosen now.

    Example:
        >>> sorted(available())
        ['cpu', 'cuda']
    """
    if current_path() == "eager":
        return dict.fromkeys(("cpu", "cuda"), "step by step, as was asked for")
    return {"cpu": _cpu(), "cuda": _cuda()}


def _otherwise(why: object) -> str:
    """Return what happens where no kernel can be made."""
    return f"refused ({why})" if current_path() == "compiled" else f"step by step ({why})"


def _cpu() -> str:
    try:
        compiler = compiler_words()
        said = compiler_version(compiler).splitlines() or ["of unknown version"]
    except (NoCompiler, CannotCompile, OSError) as error:
        return _otherwise(error)
    own = f"{shlex.join(compiler)} ({said[0]})"
    return f"all steps in one C kernel, by {own}, kept in {cache_folder()}"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no GPU found"
    if importlib.util.find_spec("triton") is None:
        return _otherwise("Triton is not installed; pip install triton")
    return f"all steps in one Triton {version('triton')} kernel, {torch.cuda.get_device_name()}"
