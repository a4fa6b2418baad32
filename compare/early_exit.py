"""Early exit: its confidence found on training images, and what it gives on test images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch

from spiketune.snn import EarlyExit, SpikingNetwork
from spiketune.snn.early_exit import require_steps

from .batches import Batches
from .clock import timed
from .exit_curve import OnBatch, check_tolerance, exit_curve
from .interval import wilson
from .runners import placed
from .sweeping import check_answers


def fit_exit(
    snn: SpikingNetwork,
    loader: Iterable[Sequence[Any]],
    steps: int | None = None,
    *,
    tolerance: float = 0.0,
    first: int = 1,
    every: int = 1,
    device: torch.device | str | None = None,
    progress: OnBatch | None = None,
) -> EarlyExit:
    """Return the exit with the fewest steps that loses no accuracy on training images.

    One simulation of ``steps`` steps gives the confidence of every image after every step, and so
    accuracy and mean steps of every threshold at once (see ``ExitCurve``). Several thousand
    images settle it; with fewer it stops too early or too late by chance.

    Args:
        snn: the network; it is left as it is.
        loader: training images, ``(x, y, ...)`` with class indices ``y``.
        steps: most steps of an image, and the budget whose accuracy is to be kept; the network's
            own by default.
        tolerance: percentage points of accuracy on these images that may be lost.
        first: first step after which images may leave.
        every: steps from one look at the answers to the next.
        device: where to run; by default where the network lies.
        progress: called after each batch with the batches done and their number (0 where the
            loader does not know it).

    Raises:
        SpiketuneError: on a tolerance outside 0 to 100, steps below 1, a network that sees all
            steps at once or gives no scores, or images and labels that ``sweep`` refuses.

    Example:
        >>> import spiketune as st
        >>> ann = st.load_ann("digits_resnet")
        >>> train, test = (st.load_data("digits", split, cfg=ann) for split in ("train", "test"))
        >>> snn = st.to_snn(ann, train.tensors[0], st.Ternary(steps=16))
        >>> found = fit_exit(snn, torch.utils.data.DataLoader(train, 128))
        >>> answers, steps = found(snn, test.tensors[0])
        >>> steps.float().mean().item() < 8
        True
    """
    check_tolerance(tolerance)
    require_steps(snn)
    looking = EarlyExit(
        confidence=inf, steps=snn.steps if steps is None else steps, first=first, every=every
    )
    return exit_curve(snn, loader, looking, device=device, progress=progress).fit(tolerance)


@dataclass(frozen=True, kw_only=True)
class ExitResult:
    """What an early exit gives, beside all images running for the same steps.

    Attributes:
        images: test images.
        steps: most steps of an image, ``T``.
        mean_steps: steps of an image, on average.
        leaving: images that left after step ``t``, at place ``t - 1``.
        top1: percent of images answered right.
        low: lower end of its 95 % interval (Wilson), percent.
        high: upper end of it.
        full_top1: percent answered right after ``T`` steps each.
        agreement: percent of images answered as after ``T`` steps.
        seconds: wall time inside the network, loading of images left out.
        full_seconds: the same with ``T`` steps each.

    Example:
        >>> result = ExitResult(images=4, steps=2, mean_steps=1.25, leaving=(3, 1), top1=75.0,
        ...     low=30.1, high=95.4, full_top1=75.0, agreement=100.0, seconds=0.7, full_seconds=1)
        >>> print(result)
        T = 1.25 of 2 on average, accuracy 75.00 % (75.00 % at T = 2), 0.70 of the time
    """

    images: int
    steps: int
    mean_steps: float
    leaving: tuple[int, ...]
    top1: float
    low: float
    high: float
    full_top1: float
    agreement: float
    seconds: float
    full_seconds: float

    def __str__(self) -> str:
        return (
            f"T = {self.mean_steps:.2f} of {self.steps} on average, accuracy {self.top1:.2f} % "
            f"({self.full_top1:.2f} % at T = {self.steps}), "
            f"{self.seconds / self.full_seconds:.2f} of the time"
        )


def measure_exit(
    snn: SpikingNetwork,
    loader: Iterable[Sequence[Any]],
    exit: EarlyExit,
    *,
    device: torch.device | str | None = None,
    progress: OnBatch | None = None,
) -> ExitResult:
    """Run test images with an early exit, and without, batch by batch in turn.

    Args:
        snn: the network; it is left as it is.
        loader: test images, ``(x, y, ...)`` with class indices ``y``.
        exit: when images leave.
        device: where to run; by default where the network lies.
        progress: as for ``fit_exit``.

    Raises:
        SpiketuneError: as ``fit_exit``.

    Example:
        >>> import spiketune as st
        >>> ann = st.load_ann("digits_resnet")
        >>> test = st.load_data("digits", "test", cfg=ann, limit=100)
        >>> snn = st.to_snn(ann, test.tensors[0], st.Ternary(steps=8))
        >>> at_once = st.EarlyExit(confidence=0.0, steps=8)
        >>> measure_exit(snn, torch.utils.data.DataLoader(test, 50), at_once).mean_steps
        1.0
    """
    batches = Batches(loader)
    early, full, used, labels = [], [], [], []
    seconds = full_seconds = 0.0
    with placed("the network", snn, None if device is None else torch.device(device)) as place:
        for count, (images, truth) in enumerate(batches, start=1):
            images = images.to(place)
            (answers, steps), taken = timed(partial(exit, snn, images), place)
            whole, full_taken = timed(partial(snn, images, exit.steps), place)
            check_answers("the network", torch.stack([answers, whole]), truth)
            seconds, full_seconds = seconds + taken, full_seconds + full_taken
            early.append(answers.argmax(1).cpu())
            full.append(whole.argmax(1).cpu())
            used.append(steps.cpu())
            labels.append(truth.cpu())
            if progress is not None:
                progress(count, len(batches))
    chosen, late, truth, left = (torch.cat(parts) for parts in (early, full, labels, used))
    hits, images_seen = int((chosen == truth).sum()), len(truth)
    low, high = wilson(hits, images_seen)
    return ExitResult(
        images=images_seen,
        steps=exit.steps,
        mean_steps=float(left.double().mean()),
        leaving=tuple(torch.bincount(left, minlength=exit.steps + 1)[1:].tolist()),
        top1=100 * hits / images_seen,
        low=low,
        high=high,
        full_top1=100 * int((late == truth).sum()) / images_seen,
        agreement=100 * int((chosen == late).sum()) / images_seen,
        seconds=seconds,
        full_seconds=full_seconds,
    )
