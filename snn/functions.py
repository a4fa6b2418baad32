"""Functions of values that arrive in parts: what makes GELU, softmax and products run over time.

With ``X(t) = Σ_{k<=t} x(k)`` the sum of a signal so far and ``n(t) = min(t, D)`` the steps during
which the image has acted (``D`` is the drive, all steps without one), the value that a signal
stands for is ``X(t)/n(t)``. A function ``F`` of one or more signals sends

    ``y(t) = n(t) F(X(t)/n(t), ...) - n(t-1) F(X(t-1)/n(t-1), ...)``,

so that the sum of what it sent stands for ``F`` of the values, exactly and at every step. With
``D = 1`` this is the differential graded unit, and for a product the product unit; without a
drive it is expectation compensation.

Sources: Huang et al. 2024 (ECMT, expectation compensation); Huang et al. 2025 (DCGS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dynamics import State, over_time
from .recording import is_recording


class Sums(NamedTuple):
    """What a function carries from chunk to chunk.

    Attributes:
        inputs: sum of each signal so far, ``[B, ...]``.
        answer: ``n(t) F(X(t)/n(t))``, what was sent so far.
        count: steps so far.

    Example:
        >>> Sums((torch.zeros(1),), torch.zeros(1), 0).count
        0
    """

    inputs: tuple[Tensor, ...]
    answer: Tensor
    count: int  # type: ignore[assignment]  # shadows tuple.count


def telescope(
    function: Callable[[Sequence[Tensor]], Tensor],
    signals: Sequence[Tensor],
    sums: Sums | None,
    *,
    drive: int | None = None,
    masked: bool = False,
) -> tuple[Tensor, Sums]:
    """Send the changes of a function of accumulated signals.

    Args:
        function: maps values ``[T, ...]``, one a signal, to answers ``[T, ...]``, each step by
            itself.
        signals: ``[T, B, ...]`` each.
        sums: after the chunk before; None at the start.
        drive: steps during which the image acts, ``D``; None for always.
        masked: whether the function itself answers with infinity on purpose.

    Returns:
        ``y [T, B, ...]`` and the sums after the chunk.

    Example:
        >>> y, _ = telescope(lambda v: v[0] ** 2, [torch.tensor([[3.0], [1.0]])], None, drive=1)
        >>> y.flatten().tolist()  # 3² at first, then the 7 that are missing to 4²
        [9.0, 7.0]
    """
    # Under autocast a layer hands in half precision; a sum must not lose what it sums.
    dtypes = [signal.dtype for signal in signals]
    signals = [s.to(torch.promote_types(s.dtype, torch.float32)) for s in signals]
    start = [torch.zeros_like(s[0]) for s in signals] if sums is None else sums.inputs
    count = 0 if sums is None else sums.count
    # Step by step: cumsum would round differently with every length of a chunk.
    totals = [
        over_time(_accumulate, signal, State(so_far))[0]
        for signal, so_far in zip(signals, start, strict=True)
    ]
    steps = len(totals[0])
    n = torch.arange(count + 1, count + steps + 1, dtype=totals[0].dtype, device=totals[0].device)
    n = n.clamp_max(drive) if drive else n
    means = totals if drive == 1 else [total / _beside(n, total) for total in totals]
    found = function([mean.to(dtype) for mean, dtype in zip(means, dtypes, strict=True)])
    answers = found if drive == 1 else found * _beside(n, found)
    first = torch.zeros_like(answers[0]) if sums is None else sums.answer
    answers = _held(answers, first, totals, masked=masked)
    before = torch.cat([first.unsqueeze(0), answers[:-1]])
    # What stays infinite, as a masked place does, has not changed.
    stays = answers.isinf() & (answers == before)
    sent = (answers - before).masked_fill(stays, 0).to(found.dtype)
    return sent, Sums(tuple(total[-1] for total in totals), answers[-1], count + steps)


def _held(answers: Tensor, first: Tensor, totals: Sequence[Tensor], *, masked: bool) -> Tensor:
    """Keep the answer before where there is none yet, as of 0/0 while nothing has arrived.

    Once it is sent, a NaN would stay in every sum behind it, and a neuron whose membrane is no
    number never fires: the answer would look well and be wrong.
    """
    if is_recording():  # for values that nobody has seen yet
        wrong = answers.isnan()
        if not masked:
            finite = ~torch.stack([total.isinf().any() for total in totals]).any()
            wrong = wrong | (answers.isinf() & finite)
    else:
        infinite = masked or any(bool(total.isinf().any()) for total in totals)
        wrong = answers.isnan() if infinite else ~answers.isfinite()
        if not bool(wrong.any()):
            return answers
    kept = []
    for now, none in zip(answers, wrong, strict=True):
        first = torch.where(none, first, now)
        kept.append(first)
    return torch.stack(kept)


def _accumulate(current: Tensor, state: State) -> tuple[Tensor, State]:
    total = state.membrane + current
    return total, State(total)


def _beside(n: Tensor, value: Tensor) -> Tensor:
    return n.view(-1, *[1] * (value.dim() - 1))
