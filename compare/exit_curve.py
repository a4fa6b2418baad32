"""What every confidence of an early exit would give: accuracy and steps, from one simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from spiketune.snn import EarlyExit, SpiketuneError, SpikingNetwork
from spiketune.snn.early_exit import confidence, require_scores, require_steps

from .batches import Batches
from .runners import placed
from .sweeping import check_answers

OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExitCurve:
    """Confidence and outcome of images after each look at their answers.

    Attributes:
        looking: the exit whose looks these are; its confidence is not used.
        sure: confidence ``c`` of each image after each look, ``[L, N]``.
        right: whether its answer is right then, ``[L, N]``.

    Example:
        >>> curve = ExitCurve(
        ...     looking=EarlyExit(confidence=inf, steps=2),
        ...     sure=torch.tensor([[3.0, 1.0], [5.0, 5.0]]),
        ...     right=torch.tensor([[True, False], [True, True]]),
        ... )
        >>> curve.fit().confidence, curve.at(3.0), curve.at(1.0)
        (3.0, (100.0, 1.5), (50.0, 1.0))
    """

    looking: EarlyExit
    sure: Tensor
    right: Tensor

    def at(self, least: float) -> tuple[float, float]:
        """Return the accuracy in percent and the mean steps with a threshold ``least``."""
        leaves = self.sure >= least
        leaves[-1] = True
        look = leaves.byte().argmax(0)  # the first of them
        hits = self.right.gather(0, look.unsqueeze(0)).sum()
        steps = torch.tensor(self.looking.looks)[look]
        return 100 * int(hits) / len(look), float(steps.double().mean())

    def fit(self, tolerance: float = 0.0) -> EarlyExit:
        """Return the exit with the fewest mean steps that keeps the accuracy of the last look.

        Args:
            tolerance: percentage points that may be lost.

        Raises:
            SpiketuneError: on a tolerance outside 0 to 100.
        """
        check_tolerance(tolerance)
        return replace(self.looking, confidence=lowest_confidence(self.sure, self.right, tolerance))


def exit_curve(
    snn: SpikingNetwork,
    loader: Iterable[Sequence[Any]],
    looking: EarlyExit,
    *,
    device: torch.device | str | None = None,
    progress: OnBatch | None = None,
) -> ExitCurve:
    """Simulate images for all steps and note their confidence and outcome after each look.

    Args:
        snn: the network; it is left as it is.
        loader: images ``(x, y, ...)`` with class indices ``y``.
        looking: after which steps to look.
        device: where to run; by default where the network lies.
        progress: called after each batch with the batches done and their number (0 where the
            loader does not know it).

    Raises:
        SpiketuneError: on a network that sees all steps at once or gives no scores, or images and
            labels that ``sweep`` refuses.

    Example:
        >>> import spiketune as st
        >>> ann = st.load_ann("digits_resnet")
        >>> train = st.load_data("digits", "train", cfg=ann, limit=100)
        >>> snn = st.to_snn(ann, train.tensors[0], st.Ternary(steps=8))
        >>> loader = torch.utils.data.DataLoader(train, 50)
        >>> list(exit_curve(snn, loader, EarlyExit(confidence=inf, steps=8)).sure.shape)
        [8, 100]
    """
    require_steps(snn)
    batches = Batches(loader)
    looks = [step - 1 for step in looking.looks]
    sure, right = [], []
    with placed("the network", snn, None if device is None else torch.device(device)) as place:
        for count, (images, truth) in enumerate(batches, start=1):
            chunks = snn.outputs(images.to(place), looking.steps)
            outputs = torch.cat([require_scores(out) for out in chunks])
            curve = snn.readout(outputs, snn.drive)
            check_answers("the network", curve, truth)
            sure.append(confidence(outputs, curve)[looks].cpu())
            right.append(curve[looks].argmax(2).cpu() == truth.cpu())
            if progress is not None:
                progress(count, len(batches))
    return ExitCurve(looking=looking, sure=torch.cat(sure, 1), right=torch.cat(right, 1))


def lowest_confidence(sure: Tensor, right: Tensor, tolerance: float = 0.0) -> float:
    """Return the threshold of the fewest mean steps that keeps the accuracy of the last look.

    An image leaves at the first look with ``c >= threshold``, at the last one in any case. As the
    threshold falls, an image moves from one new maximum of its confidence to the one before; the
    sum of these moves, in their order, is the count of right answers at every threshold.

    Args:
        sure: confidence ``c`` after each look, ``[L, N]``.
        right: whether the answer is right then, ``[L, N]``.
        tolerance: percentage points that may be lost.

    Returns:
        One of the values of ``sure``, or infinity where no image may leave early.

    Example:
        >>> sure = torch.tensor([[3.0, 1.0], [5.0, 5.0]])
        >>> lowest_confidence(sure, torch.tensor([[True, False], [True, True]]))
        3.0
    """
    highest = sure.cummax(0).values
    before = torch.cat([torch.full_like(highest[:1], -inf), highest[:-1]])
    later = torch.full_like(sure[0], len(sure) - 1, dtype=torch.long)
    thresholds, gained = [], []
    for look in range(len(sure) - 2, -1, -1):
        new = highest[look] > before[look]
        moved = right[look].long() - right.gather(0, later.unsqueeze(0))[0].long()
        thresholds.append(highest[look, new])
        gained.append(moved[new])
        later = torch.where(new, look, later)
    if not thresholds:
        return inf
    order = torch.cat(thresholds).sort(descending=True, stable=True)
    hits = torch.cat(gained)[order.indices].cumsum(0)
    # Of equal confidences, all leave or none.
    whole = torch.cat([order.values.diff() != 0, torch.ones(1, dtype=torch.bool)])
    # The slack is for rounding only: hits are whole numbers.
    enough = hits >= -tolerance / 100 * sure.shape[1] - 1e-9
    found = order.values[whole & enough]
    return float(found[-1]) if len(found) else inf


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is no share of accuracy, in percentage points."""
    if not 0 <= tolerance <= 100:
        raise SpiketuneError(f"tolerance must be from 0 to 100 points, not {tolerance}")
