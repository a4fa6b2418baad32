"""Graded neurons against a NumPy loop, the bound on what is missing, and Poisson's closed forms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spiketune.snn import (
    Constant,
    Firing,
    Geometric,
    Graded,
    HardReset,
    Harmonic,
    Poisson,
    Schedule,
    SpiketuneError,
)
from spiketune.snn.graded import nearest_level

Array = NDArray[np.float64]
quick = settings(max_examples=100, deadline=None, derandomize=True)


def nearest(x: Array, levels: int) -> Array:
    """Return the nearest of all sizes by trying each; ties go to zero, else to the larger."""
    sizes = np.array([0.0] + [2.0**-k for k in range(levels)])
    distance = abs(abs(x)[..., None] - sizes)
    return np.asarray(sizes[distance.argmin(-1)] * np.sign(x))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@quick
def test_the_nearest_level_is_the_nearest(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, 200) * 2.0 ** rng.integers(-levels - 2, 3, 200)
    x[:40] = np.round(x[:40] * 2**levels) / 2**levels  # ties among them
    found = nearest_level(torch.from_numpy(x), levels).numpy()
    np.testing.assert_array_equal(found, nearest(x, levels))


SCHEDULES: list[Schedule] = [Constant(), Geometric(base=2.0, hold=3), Harmonic()]


@dataclass(frozen=True)
class Case:
    current: Array  # [T, B, C, W]
    theta: Array
    levels: int
    spikes: int
    drive: int | None
    floor: float | None
    ceiling: float | None
    schedule: Schedule

    def neuron(self, folded: bool = False) -> Graded:
        return Graded(
            torch.from_numpy(self.theta), levels=self.levels, spikes=self.spikes,
            drive=self.drive, floor=self.floor, ceiling=self.ceiling,
            schedule=self.schedule, folded=folded,
        )  # fmt: skip


def weight(schedule: Schedule, t: int) -> float:
    if isinstance(schedule, Harmonic):
        return 1 / t
    return schedule.base ** min(schedule.hold - t, 0) if isinstance(schedule, Geometric) else 1.0


def reference(case: Case) -> tuple[Array, Array]:
    """Return what is sent, and how many spikes at each step and place."""
    total, sent = np.zeros(case.current.shape[1:]), np.zeros(case.current.shape[1:])
    outputs, counts = [], []
    low = -np.inf if case.floor is None else case.floor
    high = np.inf if case.ceiling is None else case.ceiling
    for t, c in enumerate(case.current, 1):
        total = total + c
        n = t if case.drive is None else min(t, case.drive)
        missing = n * np.clip(total / n, low, high) - sent
        size = case.theta * weight(case.schedule, t)
        out, count = np.zeros_like(missing), np.zeros_like(missing)
        for _ in range(case.spikes):
            spike = nearest((missing - out) / size, case.levels)
            out, count = out + spike * size, count + (spike != 0)
        sent = sent + out
        outputs.append(out)
        counts.append(count)
    return np.stack(outputs), np.stack(counts)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps, batch, channels, width = (draw(st.integers(1, top)) for top in (12, 3, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(), (channels, 1), (channels, width)]))
    drive = draw(st.sampled_from([None, 1, 4]))
    current = rng.normal(0.2, 0.8, (steps, batch, channels, width))
    if drive:
        current[drive:] *= 0.3
    return Case(
        # Dyadic, so that no sum rounds and ties are ties on both sides.
        current=np.round(current * 64) / 64,
        theta=np.asarray(2.0 ** rng.integers(-2, 2, shape)),
        levels=draw(st.integers(1, 7)),
        spikes=draw(st.integers(1, 3)),
        drive=drive,
        floor=draw(st.sampled_from([None, 0.0, -0.5])),
        ceiling=draw(st.sampled_from([None, 0.75])),
        schedule=draw(st.sampled_from(SCHEDULES)),
    )


@given(cases())
@quick
def test_a_graded_neuron_equals_a_numpy_loop(case: Case) -> None:
    expected, _ = reference(case)
    found, state = case.neuron()(torch.from_numpy(case.current))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert state.tracer is not None and state.count == len(case.current)
    np.testing.assert_allclose(state.tracer.numpy(), expected.sum(0), rtol=1e-12, atol=1e-12)


@given(cases())
@quick
def test_chunks_folding_and_gradients_change_no_spike(case: Case) -> None:
    current, neuron = torch.from_numpy(case.current), case.neuron()
    whole, _ = neuron(current)
    state, parts = None, []
    for part in torch.split(current, 5):
        out, state = neuron(part, state)
        parts.append(out)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(case.neuron(folded=True)(current)[0] * neuron.threshold, whole)
    kept, _ = neuron(current.clone().requires_grad_(True))
    assert kept.requires_grad and torch.equal(kept, whole)


@given(cases(), st.booleans(), st.integers(0, 5), st.booleans())
@quick
def test_events_count_every_spike(case: Case, folded: bool, cut: int, ties: bool) -> None:
    if not ties:
        rng = np.random.default_rng(0)
        current = case.current + rng.normal(0, 0.01, case.current.shape)
        case = Case(**{**vars(case), "current": current})
    expected, counts = reference(case)
    spikes = torch.from_numpy(expected / case.theta if folded else expected)
    neuron = case.neuron(folded)
    cut = min(cut, len(spikes) - 1)
    parts = [neuron.events(spikes[:cut]).long()] if cut else []
    found = torch.cat([*parts, neuron.events(spikes[cut:], cut).long()]).numpy()
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_array_equal(found, counts)


@given(
    st.floats(-1.5, 1.5), st.integers(1, 10), st.sampled_from([0.3, 1.0, 2.5]), st.integers(2, 14)
)
@quick
def test_what_is_missing_shrinks_to_a_third_each_step(
    value: float, levels: int, theta: float, steps: int
) -> None:
    """|e| in [3/4, 3/2) 2^k leaves at most 2^k / 2, a third; in range that is every step."""
    neuron = Graded(torch.tensor(theta, dtype=torch.float64), levels=levels, drive=1, floor=None)
    current = torch.zeros(steps, 1, dtype=torch.float64)
    current[0] = value * theta
    sent = neuron(current)[0].cumsum(0).squeeze(1)
    finest = theta / 2**levels  # half the smallest spike
    missing = [abs(value * theta), *(value * theta - sent).abs().tolist()]
    for before, after in pairwise(missing):
        assert after <= max(before / 3, finest) + 1e-12
    assert missing[-1] <= max(abs(value) * theta / 3**steps, finest) + 1e-12


@given(st.floats(-1.0, 1.0), st.integers(1, 6), st.integers(1, 40))
@quick
def test_a_constant_current_is_rated_to_half_the_finest_level(
    value: float, levels: int, steps: int
) -> None:
    neuron = Graded(torch.tensor(1.0, dtype=torch.float64), levels=levels, floor=None)
    sent = neuron(torch.full((steps, 1), value, dtype=torch.float64))[0].cumsum(0).squeeze(1)
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    assert float((t * value - sent).abs().max()) <= 0.5 + 1e-12


def test_a_neuron_half_a_smallest_spike_off_is_at_rest() -> None:
    current = torch.zeros(6, 1)
    current[0] = 0.875
    spikes, _ = Graded(torch.tensor(1.0), levels=3, drive=1)(current)
    assert spikes.flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_straight_through_gradients() -> None:
    """What was sent in all has the slope of the activation: 1 inside, 0 beyond the ceiling."""
    current = torch.tensor([[0.3, 2.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    neuron = Graded(torch.tensor(1.0), drive=1, ceiling=1.5)
    neuron(current)[0].sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_settings_that_mean_nothing_are_refused() -> None:
    one = torch.tensor(1.0)
    for levels, spikes in ((0, 1), (1, 0)):
        with pytest.raises(SpiketuneError, match="at least 1"):
            Graded(one, levels=levels, spikes=spikes)
    with pytest.raises(SpiketuneError, match="softly"):
        Graded(one, firing=Firing(reset=HardReset()))
    for base, hold in ((1.0, 1), (0.5, 2), (2.0, 0)):
        with pytest.raises(SpiketuneError, match="base"):
            Geometric(base=base, hold=hold)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(SpiketuneError, match="scale"):
            Poisson(scale=scale)


@pytest.mark.parametrize("training", [False, True])
def test_poisson_spikes_have_the_mean_and_variance_of_bernoulli_trials(training: bool) -> None:
    steps, scale = 4000, 2.0
    image = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64).view(1, 41)
    unit = Poisson(scale=scale, seed=3).train(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spikes, _ = unit(image.expand(steps, 1, 41))
    assert set(spikes.abs().unique().tolist()) <= {0.0, scale}
    clipped = image.clamp(-scale, scale)[0]
    variance = clipped.abs() * (scale - clipped.abs())
    error = (spikes.mean(0)[0] - clipped).abs()
    assert bool((error <= 5 * (variance / steps).sqrt() + 1e-12).all())
    torch.testing.assert_close(spikes.var(0)[0], variance, rtol=0.1, atol=0.02)
    signs = spikes[:, 0].sign() * image.sign()
    assert bool((signs >= 0).all())


def test_poisson_draws_of_evaluation_depend_on_seed_and_step_alone() -> None:
    x = torch.rand(1, 4, 3, 5).expand(9, 4, 3, 5)
    unit = Poisson(scale=1.0, seed=1).eval()
    whole, _ = unit(x)
    assert torch.equal(unit(x)[0], whole)
    first, state = unit(x[:4])
    assert torch.equal(torch.cat([first, unit(x[4:], state)[0]]), whole)
    assert torch.equal(torch.cat([unit(x[:, i : i + 1])[0] for i in range(4)], 1), whole)
    assert not torch.equal(Poisson(scale=1.0, seed=2).eval()(x)[0], whole)
    assert torch.equal(unit.ann(x[0]), x[0])


def test_poisson_draws_of_training_are_anew_for_each_image_and_call() -> None:
    """Agreement of two draws of chance 1/2, if they are independent, is one in two."""
    x, unit = torch.full((20, 2, 500), 0.5), Poisson(scale=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, again = unit(x)[0], unit(x)[0]
        for one, other in ((first, again), (first[:, 0], first[:, 1]), (first[0], first[1])):
            assert 0.45 < (one == other).float().mean() < 0.55
        torch.manual_seed(0)
        assert torch.equal(unit(x)[0], first)
