"""RateLIF against continuous time: closed-form spike times, and a simulation event by event."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_soft_lif import AT, HARD
from torch import nn

import spiketune
from spiketune.snn import (
    ATan,
    Firing,
    HardReset,
    RateLIF,
    SoftReset,
    SpiketuneError,
    Synapse,
    neuron_path,
    soft_lif,
)
from spiketune.snn.simulation import Simulation
from spiketune.zoo import RateNeuron

Array = NDArray[np.float64]


class Case(NamedTuple):
    current: Array  # [T, N]
    dt: float
    tau_rc: float
    tau_ref: float
    initial: float

    def neuron(self, size: float = 1.0, firing: Firing | None = None) -> RateLIF:
        return RateLIF(
            torch.tensor(size, dtype=torch.float64),
            dt=self.dt, tau_rc=self.tau_rc, tau_ref=self.tau_ref, initial=self.initial,
            firing=firing,
        )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tau_ref = draw(st.floats(1e-3, 8e-3))
    return Case(
        current=rng.normal(draw(st.floats(0.5, 6.0)), 3.0, (draw(st.integers(1, 60)), 4)),
        dt=tau_ref * draw(st.sampled_from([0.1, 0.31, 0.5, 0.77, 1.0])),
        tau_rc=draw(st.floats(5e-3, 5e-2)),
        tau_ref=tau_ref,
        initial=draw(st.floats(0.0, 0.9)),
    )


def events(case: Case) -> tuple[Array, float]:
    """Follow each membrane from event to event; return spikes, and how near one was missed.

    Within a step the current is constant: the membrane rests, charges towards the current, and
    crosses 1 after ``τ ln((J - v)/(J - 1))``, or does not.
    """
    spikes, nearest = np.zeros_like(case.current), math.inf
    for neuron in range(case.current.shape[1]):
        v, rest = case.initial, 0.0
        for step, current in enumerate(case.current[:, neuron]):
            left = case.dt
            while left > 0:
                if rest > 0:
                    spent = min(rest, left)
                    rest, left = rest - spent, left - spent
                    continue
                crossing = math.inf
                if current > 1:
                    crossing = case.tau_rc * math.log((current - v) / (current - 1))
                nearest = min(nearest, abs(crossing - left))
                if crossing < left:
                    spikes[step, neuron] += 1
                    v, rest, left = 0.0, case.tau_ref, left - crossing
                else:
                    v = current + (v - current) * math.exp(-left / case.tau_rc)
                    left = 0.0
    return spikes, nearest


@given(cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_equals_a_simulation_event_by_event(case: Case) -> None:
    spikes, nearest = events(case)
    assume(nearest > 1e-12)  # there rounding decides
    found, _ = case.neuron(2.5)(torch.from_numpy(case.current))
    np.testing.assert_array_equal(found.detach().numpy(), 2.5 * spikes)


@pytest.mark.parametrize(
    ("dt", "path"), [(0.0005, "eager"), (0.001, "compiled"), (0.0015, "eager"), (0.002, "eager")]
)
def test_its_rates_are_the_golden_ones_whatever_the_grid(dt: float, path: str) -> None:
    steps = round(4 / dt)  # four seconds
    with torch.no_grad(), neuron_path(path):
        spikes, _ = RateLIF(torch.tensor(1.0), dt=dt)(torch.tensor(AT).expand(steps, -1))
    assert (spikes.sum(0) / 4).tolist() == pytest.approx(HARD, abs=0.26)  # one spike in 4 s


@given(st.floats(1.01, 12.0), st.floats(0.0, 0.95))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_spikes_of_a_constant_current_come_when_the_solution_says(j: float, start: float) -> None:
    steps, dt, tau_rc, tau_ref = 300, 0.001, 0.02, 0.003
    first = tau_rc * math.log((j - start) / (j - 1))
    period = tau_ref + tau_rc * math.log(j / (j - 1))
    times = first + period * np.arange(steps)
    assume(abs(times / dt - np.round(times / dt)).min() > 1e-9)
    expected = np.zeros(steps)
    expected[(times[times < steps * dt] / dt).astype(int)] = 1
    neuron = RateLIF(torch.ones((), dtype=torch.float64), tau_ref=tau_ref, initial=start)
    found, _ = neuron(torch.full((steps, 1), j, dtype=torch.float64))
    assert found[:, 0].tolist() == expected.tolist()


def test_its_mean_is_the_curve_within_a_spike() -> None:
    steps, current = 150, torch.linspace(-2, 9, 500)
    neuron = RateLIF(torch.tensor(10.0), gamma=0.0)
    spikes, _ = neuron(current.expand(steps, -1))
    apart = (spikes.mean(0) - neuron.ann(current)).abs()
    assert apart.max().item() <= 10.0 / steps * 1.001
    assert torch.allclose(neuron.ann(current), soft_lif(current, gamma=0.0))


@pytest.mark.parametrize("period", [4, 9, 20])
def test_filtered_spikes_waver_as_the_synapse_says(period: int) -> None:
    """One spike of size θ a period: ``a = θ (1 - r) r^k / (1 - r^n)`` ``k`` steps after it."""
    dt, tau_rc, tau_ref = 0.001, 0.02, 0.002
    share = math.exp(-(period * dt - tau_ref) / tau_rc)
    neuron = RateLIF(torch.tensor(10.0, dtype=torch.float64))
    current = torch.full((60 * period, 1), 1 / (1 - share), dtype=torch.float64)
    sent = neuron(current * (1 + 1e-12))[0]
    filtered, _ = Synapse(tau=5.0)(sent)
    last = filtered[-period:].sort(descending=True, dim=0).values[:, 0].tolist()
    r = 0.8
    assert last == pytest.approx([10 * (1 - r) * r**k / (1 - r**period) for k in range(period)])


def smooth_loss(case: Case, at: Array, weight: Array, detach: bool) -> float:
    """Return ``Σ w P(v - 1)`` near a case: membranes move, when they rest stays as it was.

    ``P`` is the primitive of the slope ``ATan``; its derivative stands for the spike's.
    """

    def primitive(x: Array) -> Array:
        return np.arctan(np.pi * x) / np.pi  # α = 2

    old = np.full_like(at[0], case.initial)  # the membrane as it was, and as it moves
    v, rest, total = old.copy(), np.zeros_like(old), 0.0
    for step, current in enumerate(case.current):
        kept = np.exp(-np.clip(case.dt - rest, 0, case.dt) / case.tau_rc)
        old = at[step] + (old - at[step]) * kept
        v = current + (v - current) * kept
        fired = old > 1
        with np.errstate(invalid="ignore", divide="ignore"):
            since = case.tau_rc * np.log((at[step] - 1) / (at[step] - old))
        rest = np.where(fired, case.tau_ref - since, np.maximum(rest - case.dt, 0))
        near = fired + primitive(v - 1) - primitive(old - 1)
        total += float((weight[step] * near).sum())
        v, old = v * (1 - (fired if detach else near)), old * (1 - fired)
    return total


@given(cases(), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_gradients_equal_finite_differences(case: Case, detach: bool) -> None:
    weight = np.linspace(-1, 2, case.current.size).reshape(case.current.shape)
    firing = Firing(reset=HardReset(), strict=True, surrogate=ATan(), detach_reset=detach)
    current = torch.from_numpy(case.current).requires_grad_(True)
    out, _ = case.neuron(firing=firing)(current)
    (found,) = torch.autograd.grad((out * torch.from_numpy(weight)).sum(), current)
    toward, h = np.random.default_rng(0).normal(size=case.current.shape), 1e-6
    near = [case._replace(current=case.current + sign * h * toward) for sign in (1, -1)]
    up, down = (smooth_loss(one, case.current, weight, detach) for one in near)
    expected = (up - down) / (2 * h)
    assert float((found.numpy() * toward).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_kernel_says_what_the_steps_say() -> None:
    firing = Firing(reset=HardReset(), strict=True, surrogate=ATan())
    neuron, found = RateLIF(torch.rand(3, 1, 1) + 1, initial=0.9, firing=firing), []
    weight = torch.randn(4, 2, 3, 4, 4)
    for path in ("eager", "compiled"):
        current = 4 + 4 * torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        current.requires_grad_(True)
        with neuron_path(path):
            first, state = neuron(current[:2])
            second, after = neuron(current[2:], state)
        out = torch.cat([first, second])
        (grad,) = torch.autograd.grad((out * weight).sum(), current)
        assert after.tracer is not None
        found.append((out, after.membrane, after.tracer, grad))
    assert torch.equal(found[0][0], found[1][0]) and found[0][0].any()
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def network() -> spiketune.SpikingNetwork:
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    for layer in (ann[0], ann[4]):
        nn.init.constant_(layer.bias, 2.0)
    return spiketune.twin(ann, 20, (1, 8, 8), neuron=RateNeuron(tau_ref=0.004, gamma=0.03)).eval()


@torch.no_grad()
def test_saved_folded_cut_and_chunked_it_answers_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    snn, x = network(), torch.rand(5, 1, 8, 8)
    curve = snn.unroll(x)
    assert curve[-1].std() > 0
    again = spiketune.load(spiketune.save(snn, tmp_path / "rate.safetensors"))
    assert torch.equal(again.unroll(x), curve)
    kept = [(neuron.tau_ref, neuron.gamma) for _, neuron in again.neurons()]  # type: ignore[attr-defined]
    assert kept == [(0.004, 0.03)] * 2
    assert torch.allclose(snn.fold().unroll(x), curve, atol=1e-5)
    assert torch.allclose(snn.unroll(x, chunk=3), curve, atol=1e-6)
    run = Simulation(snn.program, x)
    before = run.advance(7)
    run.keep(torch.tensor([1, 4]))
    outputs = torch.cat([before[:, [1, 4]], run.advance(13)])
    assert torch.allclose(outputs.mean(0), curve[-1][[1, 4]], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dt": 0.0021}, "dt must be above 0 and at most tau_ref=0.002 seconds, not 0.0021"),
        ({"dt": 0.0}, "dt must be above 0"),
        ({"dt": math.nan}, "dt must be above 0"),
        ({"tau_rc": 0.0}, "tau_rc must be above 0 seconds"),
        ({"gamma": -1.0}, "gamma must be at least 0"),
        ({"firing": Firing(reset=SoftReset(), strict=True)}, "resets to 0"),
        ({"firing": Firing(reset=HardReset(to=0.1), strict=True)}, "resets to 0"),
        ({"firing": Firing(reset=HardReset())}, "fires above 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SpiketuneError, match=says):
        RateLIF(torch.tensor(1.0), **settings)  # type: ignore[arg-type]
