"""What the code round a neuron says of the way it runs: forced, noted, or as it ran before.

All of it belongs to the thread or task that says it, for networks may run in several at once. The
way back has no say, since autograd takes it in threads of its own: what is computed again there
goes the way that was noted the first time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from ..errors import SpiketuneError
from .checkpointed import run_again, run_first

PATHS = ("auto", "eager", "compiled")
_ENVIRONMENT = "SPIKETUNE_NEURONS"
_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_noting: ContextVar[tuple[list[bool], ...]] = ContextVar("noting", default=())
_again: ContextVar[Iterator[bool] | None] = ContextVar("again", default=None)


@contextmanager
def neuron_path(path: str) -> Iterator[None]:
    """Run neurons in one way inside the block, in this thread.

    Other threads, and those begun inside the block, go on as they are. Second derivatives come
    from the eager steps whichever way spikes came. What ``torch.utils.checkpoint`` computes again
    goes the way that it went; before PyTorch 2.8, which does not tell, force one way for all.

    Args:
        path: ``auto``, ``eager`` or ``compiled``.

    Raises:
        SpiketuneError: on another word.

    Example:
        >>> with neuron_path("eager"):
        ...     current_path()
        'eager'
    """
    if path not in PATHS:
        raise SpiketuneError(f"neurons run {', '.join(PATHS)}, not {path!r}")
    before = _forced.get()
    _forced.set(path)
    try:
        yield
    finally:
        _forced.set(before)


def current_path() -> str:
    """Return how neurons run now.

    Raises:
        SpiketuneError: if ``SPIKETUNE_NEURONS`` holds another word.

    Example:
        >>> current_path() in ("auto", "eager", "compiled")
        True
    """
    path = _forced.get() or os.environ.get(_ENVIRONMENT) or "auto"
    if path not in PATHS:
        raise SpiketuneError(
            f"{_ENVIRONMENT} is {path!r}; set it to {', '.join(PATHS)}, or not at all"
        )
    return path


@contextmanager
def noted(choices: list[bool]) -> Iterator[None]:
    """Note which runs inside the block go through kernels, so that they can be ``repeated``.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF
        >>> choices: list[bool] = []
        >>> with noted(choices):
        ...     _ = IF(torch.tensor(1.0))(torch.ones(2, 1))
        >>> choices
        [False]
    """
    before = _noting.get()
    _noting.set((*before, choices))
    try:
        yield
    finally:
        _noting.set(before)


@contextmanager
def repeated(choices: Sequence[bool]) -> Iterator[None]:
    """Run what is computed again the way that it ran, though kernels may have come since.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF
        >>> with repeated([False]):
        ...     _ = IF(torch.tensor(1.0))(torch.ones(2, 1))
    """
    before = _noting.get(), _again.get()
    _noting.set(())
    _again.set(iter(choices))
    try:
        yield
    finally:
        _noting.set(before[0])
        _again.set(before[1])


def note(through: bool) -> None:
    """Note that a run goes through kernels, or that it does not, wherever that is asked for."""
    for choices in (*_noting.get(), *run_first()):
        choices.append(through)


def noted_before() -> bool | None:
    """Return whether the run that is repeated now went through kernels; None for a new one."""
    again = run_again() or _again.get()
    return None if again is None else next(again, None)
