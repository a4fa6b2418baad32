"""What trains do to each other: golden values, loops over pairs, enumeration, a smooth model."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from torch import Tensor

from spiketune.finetune.spike_trains import (
    SMALLEST,
    efficacies,
    efficacies_by_spikes,
    expected_reach,
    pre_trace,
    reach,
    relative_slopes,
    self_factor,
    solve_recurrent,
)
from spiketune.snn import Refractory, Synapse

Array = NDArray[np.float64]
quick = settings(max_examples=50, deadline=None, derandomize=True)


def pair(sends: Array, fires: Array, tau_m: float, tau_s: float, period: int) -> float:
    """Return ``e`` of one pair of trains, step by step in the order of the authors' program."""
    p = q = e = 0.0
    ref = 0
    for t in range(1, len(fires)):
        p += sends[t - 1] - p / tau_s
        q += p / tau_s - q / tau_m
        if ref > 0:
            q, ref = 0.0, ref - 1
        if fires[t]:
            e, q, ref = e + q, 0.0, period
    return e


def train(*times: int, steps: int = 70) -> Array:
    spikes = np.zeros(steps)
    spikes[list(times)] = 1.0
    return spikes


GOLDEN = [
    ((10,), (20,), 0.675674598400214),
    ((10, 15, 40), (20, 30, 60), 2.3767773425339813),
]


@pytest.mark.parametrize(("sends", "fires", "expected"), GOLDEN)
def test_golden_pairs(sends: tuple[int, ...], fires: tuple[int, ...], expected: float) -> None:
    before, after = train(*sends), train(*fires)
    assert pair(before, after, 64, 8, 2) == pytest.approx(expected, abs=1e-14)
    trace = pre_trace(torch.tensor(before), 8.0) / 8
    found = (reach(torch.tensor(after), 63 / 64, 2) * trace).sum().item()
    assert found == pytest.approx(expected, abs=1e-14)


def random_trains(seed: int, steps: int, size: int, period: int) -> Array:
    """Return trains that keep their rest, ``[T, 2, N]``."""
    rng, spikes = np.random.default_rng(seed), np.zeros((steps, 2, size))
    for n in range(size):
        for b in range(2):
            t, chance = 0, rng.uniform(0, 0.4)
            while t < steps:
                fires = rng.random() < chance
                spikes[t, b, n] = fires
                t += 1 + period * int(fires)
    return spikes


@given(
    some.integers(0, 2**32 - 1), some.integers(1, 40), some.floats(1.2, 40), some.floats(1, 10),
    some.integers(0, 4),
)  # fmt: skip
@quick
def test_products_of_scans_are_the_loop_over_pairs(
    seed: int, steps: int, tau_m: float, tau_s: float, period: int
) -> None:
    before, after = random_trains(seed, steps, 4, 0), random_trains(seed + 1, steps, 3, period)
    expected = np.array([
        [[pair(before[:, b, j], after[:, b, i], tau_m, tau_s, period) for j in range(4)]
         for i in range(3)] for b in range(2)
    ])  # fmt: skip
    leak, fires = 1 - 1 / tau_m, torch.tensor(after)
    fires[0] = 0  # nothing happens in the first step
    trace = pre_trace(torch.tensor(before), tau_s) / tau_s
    found = efficacies(reach(fires, leak, period), trace)
    # Where a neuron fired in step 0 the loop never saw it, nor the rest after it.
    late = after[0].any(0) if after[0].any() else np.zeros(3, bool)
    np.testing.assert_allclose(found.numpy()[:, ~late], expected[:, ~late], rtol=0, atol=1e-12)
    sparse = efficacies_by_spikes(fires, trace, leak, period)
    torch.testing.assert_close(sparse, found, rtol=0, atol=1e-10)


def test_potentials_add_up_to_somewhat_more_than_the_thresholds_passed() -> None:
    make = torch.Generator().manual_seed(0)
    before = (torch.rand(400, 1, 50, generator=make) < 0.05).double()
    weight = (3 * torch.rand(20, 50, generator=make) - 1).double()
    current, _ = Synapse(tau=8.0, delayed=True)(before @ weight.T)
    sent, _ = Refractory(torch.tensor(20.0).double())(current)
    spikes = (sent > 0).double()
    pairs = efficacies(reach(spikes, 63 / 64, 2), pre_trace(before, 8.0) / 8)
    potential, count = (weight * pairs).sum(2)[0], spikes.sum(0)[0]
    assert count.sum() > 100
    ratio = potential[count > 0] / (20 * count[count > 0])
    assert ratio.min() >= 1.0 and 1.02 < ratio.mean() < 1.25
    # They are the membranes at which it fired.
    summed = (reach(spikes, 63 / 64, 2) * current).sum(0)[0]
    torch.testing.assert_close(summed, potential)


def test_expected_reach_is_the_mean_over_all_trains() -> None:
    steps, leak, period = 7, 0.8, 2
    mean, _ = expected_reach(steps, leak, period)
    for count in range(1, 8):
        trains = [train(*times, steps=steps) for times in combinations(range(steps), count)]
        spikes = torch.tensor(np.stack(trains, axis=1))
        assert mean[count].item() == pytest.approx(reach(spikes, leak, period).mean().item())


def test_expected_reach_is_what_simulations_found() -> None:
    mean, slope = expected_reach(400, 63 / 64, 2)
    counts = [1, 5, 10, 20, 40]
    for before, found in (
        (10, [1.36, 4.12, 5.88, 6.89, 6.99]),
        (30, [3.99, 12.03, 17.31, 20.28, 20.88]),
    ):
        torch.testing.assert_close(before * mean[counts], torch.tensor(found).double(), rtol=0.05,
                                   atol=0)  # fmt: skip
    by_differences = (mean[2:] - mean[:-2])[2:300] / 2
    torch.testing.assert_close(slope[3:301], by_differences, rtol=0.02, atol=2e-5)
    assert relative_slopes(400, 63 / 64, 2)[0] == 0


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("period", [0, 1, 3])
def test_factors_of_all_counts_that_can_occur_are_sound(steps: int, period: int) -> None:
    counts = torch.arange(1, -(-steps // (period + 1)) + 1)
    slopes = relative_slopes(steps, 1 - 1 / 16, period)[counts]
    factor = self_factor(counts.float(), slopes)
    assert factor.isfinite().all() and (factor.abs() >= SMALLEST).all()
    assert self_factor(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.00001])).tolist() == [
        pytest.approx(SMALLEST), pytest.approx(-SMALLEST),
    ]  # fmt: skip


def counts_of(inputs: Tensor, weight: Tensor, own: Tensor) -> Tensor:
    """Return the counts of the smooth model ``o = (W x + W_r o) h(o)/θ``, a fixed point."""
    count = torch.full((len(weight),), 5.0).double()
    for _ in range(300):
        count = (weight @ inputs + own @ count) * share(count) / 3.0
    return count


def share(count: Tensor) -> Tensor:
    return 1 - 0.6 * (-count / 6).exp()


def slopes_by_differences(values: Tensor, loss: object, step: float = 1e-6) -> Tensor:
    found = torch.zeros_like(values)
    for place in range(values.numel()):
        ends = []
        for sign in (1, -1):
            moved = values.clone()
            moved.view(-1)[place] += sign * step
            ends.append(float(loss(moved)))  # type: ignore[operator]
        found.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def test_a_recurrent_layer_solved_is_a_smooth_model_moved() -> None:
    make = torch.Generator().manual_seed(3)
    inputs = 5 + 10 * torch.rand(4, generator=make).double()
    weight = (0.2 + torch.rand(3, 4, generator=make)).double()
    own = 0.5 * torch.randn(3, 3, generator=make).double().fill_diagonal_(0)
    target = torch.tensor([1.0, -2.0, 0.5]).double()

    def loss(inputs: Tensor = inputs, weight: Tensor = weight, own: Tensor = own) -> Tensor:
        return target @ counts_of(inputs, weight, own)

    count = counts_of(inputs, weight, own)
    assert (count > 1).all()  # not the fixed point at rest
    slope = 0.1 * (-count / 6).exp() / share(count)
    factor = self_factor(count, slope)[None]
    gain = own * share(count)[:, None] / 3
    whole = solve_recurrent(target[None], factor, gain[None])[0] / 3
    to_weight = whole[:, None] * inputs * share(count)[:, None]
    to_own = whole[:, None] * count * share(count)[:, None]
    to_inputs = (whole * share(count)) @ weight
    expected = slopes_by_differences(own, lambda moved: loss(own=moved))
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(to_own[off], expected[off], rtol=1e-7, atol=1e-7)
    expected = slopes_by_differences(weight, lambda moved: loss(weight=moved))
    torch.testing.assert_close(to_weight, expected, rtol=1e-7, atol=1e-7)
    alone = target[:, None] / factor[0][:, None] / 3 * inputs * share(count)[:, None]
    assert 0.005 < (alone - expected).norm() / expected.norm() < 0.5
    expected = slopes_by_differences(inputs, lambda moved: loss(inputs=moved))
    torch.testing.assert_close(to_inputs, expected, rtol=1e-7, atol=1e-7)


def test_a_layer_without_a_solution_is_answered_without_its_recurrence() -> None:
    gain = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.5], [0.0, 0.0]]])
    credit, factor = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.ones(2, 2)
    found = solve_recurrent(credit, factor, gain)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0], [1.0, 2.5]]))
    spoiled = solve_recurrent(credit, factor, gain * float("nan"))
    assert torch.equal(spoiled, credit)
