"""The confidence that training images give, against trying every threshold; and its price."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spiketune.compare import ExitCurve, exit_curve, fit_exit, measure_exit, wilson
from spiketune.snn import EarlyExit, SignedIF, SpiketuneError, SpikingNetwork

MakeSpiking = Callable[..., SpikingNetwork]
Images = list[tuple[Tensor, Tensor]]
quick = settings(max_examples=150, deadline=None, derandomize=True)
Array = np.ndarray[Any, Any]


def judged(sure: Array, right: Array, looks: tuple[int, ...], least: float) -> tuple[int, int]:
    """Return right answers and steps in all, image by image."""
    hits = total = 0
    for image in range(sure.shape[1]):
        look = next((k for k in range(len(looks) - 1) if sure[k, image] >= least), len(looks) - 1)
        hits, total = hits + int(right[look, image]), total + looks[look]
    return hits, total


@given(
    seed=st.integers(0, 2**31), images=st.integers(1, 12), steps=st.integers(1, 7),
    first=st.integers(1, 3), every=st.integers(1, 3), grain=st.sampled_from([2, 4, 100]),
    tolerance=st.sampled_from([0.0, 5.0, 30.0, 100.0]),
)  # fmt: skip
@quick
def test_the_fit_is_the_best_of_all_thresholds(
    seed: int, images: int, steps: int, first: int, every: int, grain: int, tolerance: float
) -> None:
    looking = EarlyExit(confidence=inf, steps=max(first, steps), first=first, every=every)
    rng = np.random.default_rng(seed)
    shape = (len(looking.looks), images)
    sure = rng.integers(-grain, grain, shape) / grain  # with ties
    right = rng.random(shape) < 0.7
    curve = ExitCurve(looking=looking, sure=torch.tensor(sure), right=torch.tensor(right))
    found = curve.fit(tolerance)
    assert (found.steps, found.first, found.every) == (looking.steps, first, every)

    every_one = {c: judged(sure, right, looking.looks, c) for c in [inf, *np.unique(sure)]}
    full = every_one[inf][0]
    allowed = [t for hits, t in every_one.values() if 100 * (full - hits) <= tolerance * images]
    hits, total = judged(sure, right, looking.looks, found.confidence)
    assert total == min(allowed)
    assert total <= looking.steps * images and 100 * (full - hits) <= tolerance * images
    assert curve.at(found.confidence) == pytest.approx((100 * hits / images, total / images))


def test_three_images_by_hand() -> None:
    looking = EarlyExit(confidence=inf, steps=3)
    sure = torch.tensor([[1.0, 4.0, 2.0], [3.0, 9.0, 1.0], [0.0, 0.0, 0.0]])
    right = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 0]]).bool()
    curve = ExitCurve(looking=looking, sure=sure, right=right)
    # At 2 the third is right though it would not be at the end; at 1 the first is wrong instead.
    assert curve.at(inf) == (pytest.approx(200 / 3), 3.0)
    assert curve.at(2.0) == (100.0, pytest.approx(4 / 3))
    assert curve.at(1.0) == (pytest.approx(200 / 3), 1.0)
    assert curve.fit().confidence == 1.0
    right[2, 2] = True
    assert curve.fit().confidence == 2.0 and curve.fit(34).confidence == 1.0


@pytest.mark.parametrize("drive", [None, 3])
def test_a_fitted_exit_keeps_its_promise_when_it_runs(
    spiking: MakeSpiking, classifier: nn.Module, drive: int | None
) -> None:
    images = [(torch.rand(n, 1, 8, 8).double(), torch.randint(10, (n,))) for n in (40, 25)]
    snn = spiking(classifier.double(), images[0][0], SignedIF, drive=drive).train()
    with torch.no_grad():  # half of the labels as the network sees them, so that some are right
        for x, y in images:
            y[::2] = snn.unroll(x)[-1].argmax(1)[::2]
    progress: list[tuple[int, int]] = []
    found = fit_exit(snn, images, progress=lambda *now: progress.append(now))
    curve = exit_curve(snn, images, found)
    result = measure_exit(snn, images, found)
    assert found.steps == snn.steps == 8 and progress == [(1, 2), (2, 2)]
    assert (result.top1, result.mean_steps) == pytest.approx(curve.at(found.confidence))
    assert result.full_top1 == pytest.approx(curve.at(inf)[0])
    assert result.top1 >= result.full_top1 and result.mean_steps < 8
    assert fit_exit(snn, images, tolerance=100, first=2) == EarlyExit(
        confidence=float(exit_curve(snn, images, EarlyExit(confidence=0, steps=8, first=2))
                         .sure[0].min()), steps=8, first=2,
    )  # fmt: skip
    assert snn.training


def test_a_result_counts_what_plain_runs_count(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    snn = spiking(classifier, images[0][0], SignedIF)
    curve = exit_curve(snn, images, EarlyExit(confidence=inf, steps=6))
    rule = EarlyExit(confidence=float(curve.sure[2].median()), steps=6)
    result = measure_exit(snn, images, rule)
    left, hits, agreed, full = [], 0, 0, 0
    for x, y in images:
        answers, steps = rule(snn, x)
        end = snn.unroll(x, 6)[-1].argmax(1)
        left += steps.tolist()
        hits += int((answers.argmax(1) == y).sum())
        agreed += int((answers.argmax(1) == end).sum())
        full += int((end == y).sum())
    assert result.leaving == tuple(left.count(t) for t in range(1, 7)) and len(set(left)) > 1
    assert result.mean_steps == pytest.approx(sum(left) / 8) and result.images == 8
    assert (result.top1, result.low, result.high) == (100 * hits / 8, *wilson(hits, 8))
    assert (result.agreement, result.full_top1) == (100 * agreed / 8, 100 * full / 8)
    assert result.seconds > 0 and result.full_seconds > 0
    assert f"T = {result.mean_steps:.2f} of 6 on average" in str(result)


def test_what_cannot_be_fitted_is_refused(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    snn = spiking(classifier, images[0][0])
    with pytest.raises(SpiketuneError, match="a Sequential has no steps to leave after"):
        fit_exit(classifier, images)  # type: ignore[arg-type]
    with pytest.raises(SpiketuneError, match="tolerance must be from 0 to 100 points, not -1"):
        fit_exit(snn, images, tolerance=-1)
    with pytest.raises(SpiketuneError, match="steps must be a whole number"):
        fit_exit(snn, images, 0)
    with pytest.raises(SpiketuneError, match="one-shot iterator"):
        fit_exit(snn, iter(images))
    with pytest.raises(SpiketuneError, match="the loader is empty"):
        measure_exit(snn, [], EarlyExit(confidence=1.0, steps=4))
    with pytest.raises(SpiketuneError, match="labels run from 0 to 10"):
        fit_exit(snn, [(images[0][0], torch.tensor([0, 1, 2, 3, 10]))])
