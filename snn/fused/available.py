"""Say what neurons can run on here, before anything is compiled."""

from __future__ import annotations

import importlib.util
import shlex
from importlib.metadata import version

import torch

from .c_build import CannotCompile, NoCompiler, cache_folder, compiler_version, compiler_words


def available() -> dict[str, str]:
    """Return for each device how neurons run there, in words.

    Example:
        >>> sorted(available())
        ['cpu', 'cuda']
    """
    return {"cpu": _cpu(), "cuda": _cuda()}


def _cpu() -> str:
    try:
        compiler = compiler_words()
        said = compiler_version(compiler).splitlines() or ["of unknown version"]
    except (NoCompiler, CannotCompile, OSError) as error:
        return f"step by step ({error})"
    own = f"{shlex.join(compiler)} ({said[0]})"
    return f"all steps in one C kernel, by {own}, kept in {cache_folder()}"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no GPU found"
    if importlib.util.find_spec("triton") is None:
        return "step by step (Triton is not installed; pip install triton)"
    return f"all steps in one Triton {version('triton')} kernel, {torch.cuda.get_device_name()}"
