"""Layers of exact spike times refuse what makes no sense, in a sentence."""

from __future__ import annotations

import pytest
import torch

from spiketune.snn import (
    EarliestPool2d,
    KnotPSP,
    Latency,
    LinearPSP,
    Race,
    RampPSP,
    SpiketuneError,
    TimedConv2d,
    TimedLinear,
    TrianglePSP,
)

NO_NUMBERS = (0.0, -1.0, float("nan"), float("inf"), True, "1", None)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_above_zero_is_refused(value: object) -> None:
    weight = torch.ones(2, 3)
    for make, words in (
        (lambda: LinearPSP(tau=value), "LinearPSP: tau must be a number of steps above 0"),
        (lambda: RampPSP(tau=value), "RampPSP: tau must be"),
        (lambda: TrianglePSP(rise=value), "TrianglePSP: rise must be"),
        (lambda: TrianglePSP(fall=value), "TrianglePSP: fall must be"),
        (lambda: TimedLinear(weight, threshold=value), "threshold must be a finite number above 0"),
        (lambda: TimedLinear(weight, horizon=value), "horizon must be a whole number of steps"),
        (lambda: EarliestPool2d(size=value), "size must be a whole number"),
        (lambda: Race(sharpness=value), "sharpness must be a number above 0"),
        (lambda: Race(horizon=value), "horizon must be a whole number"),
        (lambda: Latency(window=value), "the window of .* must be above 0"),
        (lambda: Latency(horizon=value), "by the horizon of .* whole steps"),
        (lambda: Latency(std=(value,)), "numbers above 0, as the images"),
    ):
        with pytest.raises(SpiketuneError, match=words):
            make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KnotPSP(points=()), "must rise"),
        (lambda: KnotPSP(points=((2.0, 0.0), (1.0, 1.0))), "must rise"),
        (lambda: KnotPSP(points=((0.0, float("nan")),)), "must be finite numbers"),
        (lambda: KnotPSP(points=((0.0, 0.0),), slope=float("inf")), "must be finite numbers"),
        (lambda: KnotPSP(points=((0.0, "1"),)), "must be finite numbers"),
        (lambda: TimedLinear(torch.ones(2, 3), horizon=8.5), "horizon must be a whole number"),
        (lambda: TimedLinear(torch.ones(2, 3), psp="linear"), "such as LinearPSP"),
        (lambda: TimedLinear(torch.ones(2, 3), binary="no"), "binary must be true or false"),
        (
            lambda: TimedLinear(torch.ones(2, 3), scales="neuron"),
            "scales must be layer, or of binary",
        ),
        (lambda: TimedLinear(torch.ones(2, 3), binary=True, scales=3), "scales must be layer"),
        (lambda: Latency(mean=(float("nan"),)), "must be numbers"),
        (lambda: Latency(mean=(0.1, 0.2))(torch.ones(1, 3, 2, 2)), "for images of 3 channels"),
        (lambda: TimedLinear(torch.ones(2, 3))(torch.ones(1, 4)), "3 inputs is given 4"),
        (lambda: TimedConv2d(torch.ones(2, 3, 3, 3))(torch.ones(1, 1, 9, 9)), "3 channels"),
        (lambda: TimedConv2d(torch.ones(2, 1, 5, 5))(torch.ones(1, 1, 4, 9)), "does not fit"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpiketuneError, match=words):
        make()
