"""Which way neurons run: eagerly, step by step, or through kernels over the whole time axis.

``auto`` begins eagerly and compiles what has run long enough for that to pay; answers and
gradients are the same either way. ``neuron_path`` forces a way inside a block, the environment
variable ``SPIKETUNE_NEURONS`` for a process.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..dynamics import State
from .choices import current_path, note, noted_before
from .function import Plan, plan, run_planned, watched
from .kernels import MAKING, UNMADE, Kernel, Kernels, compiled_sequence
from .layout import layout_of
from .pointwise import UnknownOperation
from .tracing import Shape, parts_of

if TYPE_CHECKING:
    from ..neurons import Neuron

T = TypeVar("T")
# Values that run eagerly before their kernels are made: that has cost about what making them will,
# so neither does a demo wait for a compiler nor a training for eager neurons.
WORTH = 50_000_000


class _Ways:
    """What was made, by all threads, and what went wrong.

    Attributes:
        kernels: of neurons.
        pointwise: of other functions.
        seen: values that ran eagerly so far; two threads may count some as one.
        made: what has kernels.
        refused: what can have none.
        broken: why, by device, no more can be made.
        told: what was warned of.
    """

    def __init__(self) -> None:
        self.kernels = Kernels(failed=self.give_up)
        self.pointwise: dict[Hashable, Kernel] = {}
        self.seen: Counter[Hashable] = Counter()
        self.made: set[Hashable] = set()
        self.refused: set[Hashable] = set()
        self.broken: dict[str, str] = {}
        self.told: set[str] = set()

    def worth_a_kernel(self, key: Hashable, values: int, device: str) -> bool:
        """Count values and say whether there is a kernel for them, or should be."""
        path = current_path()
        if path == "eager" or torch.compiler.is_compiling():
            return False
        if key in self.made:
            return True
        if device in self.broken or key in self.refused:
            return False
        self.seen[key] += values
        return path == "compiled" or self.seen[key] >= WORTH

    def give_up(self, key: Hashable, device: str, error: Exception) -> None:
        """Remember, and say once, that these neurons, or all, have to run without kernels."""
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = f"{type(error).__name__}: {lines[0]}"
        with MAKING:
            self.made.discard(key)
            if isinstance(error, UnknownOperation):  # of this neuron; others have kernels
                self.refused.add(key)
            else:
                self.broken[device] = reason
            if reason in self.told:
                return
            self.told.add(reason)
        warnings.warn(
            f"neurons run step by step, for no kernel could be compiled ({reason}); mend that for "
            "speed, or set SPIKETUNE_NEURONS=eager to silence this",
            stacklevel=5,
        )


_ways = _Ways()


def run_neuron(
    neuron: Neuron,
    current: Tensor,
    state: State | None,
    *,
    spent: tuple[bool, bool] = (False, False),
) -> tuple[Tensor, State]:
    """Run ``current [T, B, ...]`` from ``state``, None for a fresh start, whichever way pays.

    Where the current or the state is ``spent``, needed by nobody afterwards, what is made without
    gradients may take its place. What is computed again goes the way that it went.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.
    """
    if neuron.whole or neuron.mixes or not current.numel() or torch.compiler.is_compiling():
        return run_eagerly(neuron, current, state)
    if state is not None and state.extra and state.tracer is None:
        return run_eagerly(neuron, current, state)  # a kernel could not tell its parts apart
    before = noted_before()
    planned: Plan | None = None
    if before or (before is None and current_path() != "eager" and not watched()):
        planned = _planned(neuron, current, state)
    if planned is None:
        note(False)
        return run_eagerly(neuron, current, state)
    way = planned

    def through_kernels() -> tuple[tuple[Tensor, State], bool]:
        return run_planned(way, current, state, _ways.kernels, spent=spent), True

    def eagerly() -> tuple[tuple[Tensor, State], bool]:
        return run_eagerly(neuron, current, state), False

    key, device = (way.shape, way.total), current.device.type
    found, through = (
        through_kernels()
        if before
        else whichever_pays(key, current.numel(), device, through_kernels, eagerly)
    )
    note(through)
    return found


def _planned(neuron: Neuron, current: Tensor, state: State | None) -> Plan | None:
    """Return how a call would go through kernels, None where none may be asked for."""
    planned = plan(neuron, current, state)
    parts = () if state is None else parts_of(state)
    one = all(part.dtype == planned.shape.dtype for part in parts)
    return planned if one and _hashable(planned.shape) else None


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
            with MAKING:
                if whole not in _ways.pointwise:
                    made = compiled_sequence(function, len(first), layout, given)
                    _ways.pointwise[whole] = made
        out = torch.empty_like(given[0])
        _ways.pointwise[whole](out, *given)
        return layout.unflat(out, sequence=True)

    def eagerly() -> Tensor:
        return function(*sequences, *samples, *settings)

    return whichever_pays(whole, first.numel(), first.device.type, through_kernel, eagerly)


def whichever_pays(
    key: Hashable,
    values: int,
    device: str,
    through_kernels: Callable[[], T],
    eagerly: Callable[[], T],
) -> T:
    """Run eagerly until enough values have come by, then through kernels if they can be made."""
    if not _ways.worth_a_kernel(key, values, device):
        return eagerly()
    try:
        found = through_kernels()
    except UNMADE as error:
        if current_path() == "compiled":
            raise
        _ways.give_up(key, device, error)
        return eagerly()
    _ways.made.add(key)
    return found


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
