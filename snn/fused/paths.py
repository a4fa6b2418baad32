"""Which way neurons run: eagerly, step by step, or through kernels over the whole time axis.

``auto`` begins eagerly and compiles what has run long enough for that to pay; answers and
gradients are the same either way, but second derivatives need the eager one. ``neuron_path``
forces a way inside a block, the environment variable ``SPIKETUNE_NEURONS`` for a process.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..dynamics import State
from ..errors import SpiketuneError
from .c_kernel import NoCompiler
from .function import plan, run_planned
from .kernels import Kernel, Kernels, compiled_sequence
from .layout import layout_of
from .pointwise import UnknownOperation
from .tracing import Shape, parts_of

if TYPE_CHECKING:
    from ..neurons import Neuron

T = TypeVar("T")
# What keeps a kernel from being made; all else is an error of its own.
_UNMADE = (UnknownOperation, NoCompiler, CalledProcessError, OSError, ImportError)
PATHS = ("auto", "eager", "compiled")
# Values that run eagerly before their kernels are made: that has cost about what making them will,
# so neither does a demo wait for a compiler nor a training for eager neurons.
WORTH = 50_000_000


class _Ways:
    """What was chosen, what was made, and what went wrong."""

    def __init__(self) -> None:
        self.path = os.environ.get("SPIKETUNE_NEURONS", "auto")
        self.kernels = Kernels()
        self.pointwise: dict[Hashable, Kernel] = {}
        self.seen: Counter[Hashable] = Counter()
        self.made: set[Hashable] = set()
        self.refused: set[Hashable] = set()
        self.broken: str | None = None
        self.noting: list[list[bool]] = []
        self.again: Iterator[bool] | None = None


_ways = _Ways()


@contextmanager
def neuron_path(path: str) -> Iterator[None]:
    """Run neurons in one way inside the block.

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
    before, _ways.path = _ways.path, path
    try:
        yield
    finally:
        _ways.path = before


def current_path() -> str:
    """Return how neurons run now.

    Raises:
        SpiketuneError: if ``SPIKETUNE_NEURONS`` holds another word.

    Example:
        >>> current_path() in ("auto", "eager", "compiled")
        True
    """
    if _ways.path not in PATHS:
        raise SpiketuneError(
            f"SPIKETUNE_NEURONS is {_ways.path!r}; set it to {', '.join(PATHS)}, or not at all"
        )
    return _ways.path


@contextmanager
def noted(choices: list[bool]) -> Iterator[None]:
    """Note which runs inside the block go through kernels, so that they can be ``repeated``.

    Example:
        >>> from spiketune.snn import IF
        >>> choices: list[bool] = []
        >>> with noted(choices):
        ...     _ = IF(torch.tensor(1.0))(torch.ones(2, 1))
        >>> choices
        [False]
    """
    _ways.noting.append(choices)
    try:
        yield
    finally:
        _ways.noting.pop()


@contextmanager
def repeated(choices: Sequence[bool]) -> Iterator[None]:
    """Run what is computed again the way that it ran, though kernels may have come since.

    Example:
        >>> from spiketune.snn import IF
        >>> with repeated([False]):
        ...     _ = IF(torch.tensor(1.0))(torch.ones(2, 1))
    """
    before = _ways.noting, _ways.again
    _ways.noting, _ways.again = [], iter(choices)
    try:
        yield
    finally:
        _ways.noting, _ways.again = before


def run_neuron(
    neuron: Neuron,
    current: Tensor,
    state: State | None,
    *,
    spent: tuple[bool, bool] = (False, False),
) -> tuple[Tensor, State]:
    """Run ``current [T, B, ...]`` from ``state``, None for a fresh start, whichever way pays.

    Where the current or the state is ``spent``, needed by nobody afterwards, what is made without
    gradients may take its place.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.
    """
    if neuron.whole or not current.numel() or current_path() == "eager" or _traced(current):
        return run_eagerly(neuron, current, state)
    planned = plan(neuron, current, state)
    parts = () if state is None else parts_of(state)
    if not _hashable(planned.shape) or any(part.dtype != planned.shape.dtype for part in parts):
        return run_eagerly(neuron, current, state)
    return whichever_pays(
        (planned.shape, planned.total),
        current.numel(),
        lambda: run_planned(planned, current, state, _ways.kernels, spent=spent),
        lambda: run_eagerly(neuron, current, state),
    )


def _traced(current: Tensor) -> bool:
    """Whether someone wants to see the single operations, which a kernel would hide."""
    return (
        torch._C._get_tracing_state() is not None
        or _get_current_dispatch_mode() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def _hashable(shape: Shape) -> bool:
    """Whether all settings can tell themselves apart; a user's own may be lists."""
    try:
        hash(shape)
    except TypeError:
        return False
    return True


def run_pointwise(
    function: Callable[..., Tensor],
    key: Hashable,
    sequences: Sequence[Tensor],
    samples: Sequence[Tensor],
    settings: Sequence[Tensor],
) -> Tensor:
    """Return ``function(*sequences, *samples, *settings)`` without gradient, whichever way pays.

    Args:
        function: does the same at every place; ``[T, B, ...]`` comes out, in the precision of the
            first sequence.
        key: what of the function is no tensor; another function has another key.
        sequences: each ``[T, B, ...]``.
        samples: each ``[B, ...]``.
        settings: each broadcastable to one sample.

    Example:
        >>> run_pointwise(lambda x: 2 * x, "twice", [torch.ones(1, 1, 2)], [], [])
        tensor([[[2., 2.]]])
    """
    first, layout = sequences[0], layout_of(sequences[0], settings)
    single = tuple(one.numel() == 1 for one in settings)
    dtypes = tuple(one.dtype for one in (*sequences, *samples, *settings))
    whole = (key, len(first), layout.width is None, single, dtypes, first.device.type)

    def through_kernel() -> Tensor:
        given = [layout.flat(one).contiguous() for one in (*sequences, *samples)]
        given += [layout.setting(one).contiguous() for one in settings]
        if whole not in _ways.pointwise:
            _ways.pointwise[whole] = compiled_sequence(function, len(first), layout, given)
        out = torch.empty_like(given[0])
        _ways.pointwise[whole](out, *given)
        return layout.unflat(out, sequence=True)

    def eagerly() -> Tensor:
        return function(*sequences, *samples, *settings)

    return whichever_pays(whole, first.numel(), through_kernel, eagerly)


def whichever_pays(
    key: Hashable, values: int, through_kernels: Callable[[], T], eagerly: Callable[[], T]
) -> T:
    """Run eagerly until enough values have come by, then through kernels if they can be made."""
    if _ways.again is not None:
        return through_kernels() if next(_ways.again, False) else eagerly()
    if not _worth_a_kernel(key, values):
        return _noted(eagerly, through=False)
    try:
        found = through_kernels()
    except _UNMADE as error:
        if current_path() == "compiled":
            raise
        _give_up(key, error)
        return _noted(eagerly, through=False)
    _ways.made.add(key)
    return _noted(lambda: found, through=True)


def _worth_a_kernel(key: Hashable, values: int) -> bool:
    """Count values and say whether there is a kernel for them, or should be."""
    path = current_path()
    idle = torch.compiler.is_compiling() or _ways.broken is not None or key in _ways.refused
    if path == "eager" or idle:
        return False
    if path == "auto" and key not in _ways.made:
        _ways.seen[key] += values
        return _ways.seen[key] >= WORTH
    return True


def _noted(run: Callable[[], T], *, through: bool) -> T:
    for choices in _ways.noting:
        choices.append(through)
    return run()


def _give_up(key: Hashable, error: Exception) -> None:
    """Remember, and say once, that these neurons, or all, have to run without kernels."""
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    if isinstance(error, UnknownOperation):  # of this neuron; others have kernels
        _ways.refused.add(key)
    else:
        _ways.broken = reason
    warnings.warn(
        f"neurons run step by step, for no kernel could be compiled ({reason}); mend that for "
        "speed, or set SPIKETUNE_NEURONS=eager to silence this",
        stacklevel=5,
    )


def run_eagerly(neuron: Neuron, current: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Run the reference, step by step.

    Example:
        >>> from spiketune.snn import IF
        >>> spikes, _ = run_eagerly(IF(torch.tensor(1.0)), torch.full((3, 1), 0.6), None)
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    current = precise(neuron, current)
    return neuron.run(current, neuron.start(current) if state is None else state)


def precise(neuron: Neuron, current: Tensor) -> Tensor:
    """Return a current in the precision of membranes.

    Under autocast a layer hands in half precision; a membrane must not lose what it sums.
    """
    return current.to(torch.promote_types(current.dtype, neuron.threshold.dtype))
