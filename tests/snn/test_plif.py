"""PLIF against a NumPy loop, closed forms, and finite differences of a smooth stand-in."""

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
from snn_networks import Residual, spiking

from spiketune.snn import (
    PLIF,
    ATan,
    Firing,
    HardReset,
    SoftReset,
    SpiketuneError,
    decay_of,
    load,
    save,
)

Array = NDArray[np.float64]
quick = settings(max_examples=60, deadline=None, derandomize=True)


class Case(NamedTuple):
    current: Array  # [T, B, C, W]
    theta: Array
    decay: Array
    to: float | None  # hard reset to that value; None resets softly
    strict: bool

    @property
    def firing(self) -> Firing:
        reset = SoftReset() if self.to is None else HardReset(to=self.to)
        return Firing(reset=reset, strict=self.strict, surrogate=ATan())

    def neuron(self, firing: Firing | None = None) -> PLIF:
        theta, decay = torch.from_numpy(self.theta), torch.from_numpy(self.decay)
        return PLIF(theta, decay=decay, firing=firing or self.firing)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps, batch, channels, width = (draw(st.integers(1, top)) for top in (12, 3, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = st.sampled_from([(), (channels, 1), (channels, width)])
    return Case(
        current=rng.normal(0.8, 1.5, (steps, batch, channels, width)),
        theta=np.asarray(rng.uniform(0.2, 1.5, draw(shapes))),
        decay=np.asarray(rng.normal(0.0, 1.5, draw(shapes))),
        to=draw(st.sampled_from([None, 0.0, -0.25, 0.1])),
        strict=draw(st.booleans()),
    )


def reference(case: Case) -> tuple[Array, Array, Array]:
    """Return spikes, membranes before the reset and the last one after it: the paper's equation."""
    share = 1 / (1 + np.exp(-case.decay))
    rest = 0.0 if case.to is None else case.to
    v, spikes, before = np.zeros_like(case.current[0]), [], []
    for x in case.current:
        v = v + share * (x - (v - rest))
        s = (v > case.theta if case.strict else v >= case.theta).astype(float)
        before.append(v)
        v = v - case.theta * s if case.to is None else np.where(s == 1, case.to, v)
        spikes.append(s)
    return np.stack(spikes), np.stack(before), v


@given(cases())
@quick
def test_it_equals_a_numpy_loop(case: Case) -> None:
    spikes, before, last = reference(case)
    assume(abs(before - case.theta).min() > 1e-9)  # there rounding decides
    with torch.no_grad():
        out, state = case.neuron()(torch.from_numpy(case.current))
    np.testing.assert_array_equal(out.numpy(), spikes * case.theta)
    np.testing.assert_allclose(state.membrane.numpy(), last, atol=1e-12)


def test_a_time_constant_of_two_steps_is_a_decay_of_zero() -> None:
    assert decay_of(2.0) == 0.0
    neuron = PLIF(torch.tensor(1.0), decay=decay_of(2.0))
    assert neuron.decay.item() == 0.0 and neuron.decay.requires_grad


@given(st.floats(1.01, 1e4))
@quick
def test_the_decay_gives_the_time_constant_back(tau: float) -> None:
    assert 1 / (1 + math.exp(-decay_of(tau))) == pytest.approx(1 / tau, rel=1e-9)


@pytest.mark.parametrize("tau", [1.0, 0.5, -2.0, float("nan")])
def test_a_time_constant_of_one_step_or_less_is_refused(tau: float) -> None:
    with pytest.raises(SpiketuneError, match="above 1"):
        decay_of(tau)


@given(st.floats(1.1, 20.0), st.floats(0.05, 0.99))
@quick
def test_a_weak_current_charges_it_exponentially_and_never_fires_it(
    tau: float, drive: float
) -> None:
    steps = 30
    current = torch.full((steps, 1), drive, dtype=torch.float64)
    neuron = PLIF(torch.tensor(1.0, dtype=torch.float64), decay=decay_of(tau))
    out, state = neuron(current)
    assert not out.any()
    assert state.membrane.item() == pytest.approx(drive * (1 - (1 - 1 / tau) ** steps), rel=1e-9)


def smooth_loss(case: Case, at: Case, weight: Array, detach: bool) -> float:
    """Return ``Σ w θ P(v/θ - 1)`` near a case, resets linear in ``P`` around those at the case.

    ``P`` is the primitive of the slope ``ATan``; its derivative stands for the spike's.
    """

    def primitive(x: Array) -> Array:
        return np.arctan(np.pi * x) / np.pi  # α = 2

    spikes, before, _ = reference(at)
    offset = primitive(before / at.theta - 1)
    share, rest = 1 / (1 + np.exp(-case.decay)), 0.0 if case.to is None else case.to
    v, total = np.zeros_like(case.current[0]), 0.0
    for t, x in enumerate(case.current):
        v = v + share * (x - (v - rest))
        soft = primitive(v / case.theta - 1)
        near = spikes[t] + soft - offset[t]  # the spike itself, and moving with the membrane
        total += float((weight[t] * case.theta * near).sum())
        r = spikes[t] if detach else near
        v = v - case.theta * r if case.to is None else v * (1 - r) + case.to * r
    return total


@given(cases(), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_gradients_equal_finite_differences(case: Case, detach: bool) -> None:
    weight = np.linspace(-1, 2, case.current.size).reshape(case.current.shape)
    firing = Firing(
        reset=case.firing.reset, strict=case.strict, surrogate=ATan(), detach_reset=detach
    )
    neuron = case.neuron(firing).requires_grad_(True)
    current = torch.from_numpy(case.current).requires_grad_(True)
    out, _ = neuron(current)
    names = ("current", "theta", "decay")
    found = torch.autograd.grad(
        (out * torch.from_numpy(weight)).sum(), [current, neuron.threshold, neuron.decay]
    )
    rng, h = np.random.default_rng(0), 1e-6
    for name, gradient in zip(names, found, strict=True):
        value = getattr(case, name)
        toward = np.asarray(rng.normal(size=value.shape))
        up, down = (case._replace(**{name: value + sign * h * toward}) for sign in (1, -1))
        slope = smooth_loss(up, case, weight, detach) - smooth_loss(down, case, weight, detach)
        expected = slope / (2 * h)
        assert float((gradient.numpy() * toward).sum()) == pytest.approx(
            expected, rel=1e-5, abs=1e-6
        )


@given(cases(), st.integers(0, 12))
@quick
def test_the_run_may_be_cut_anywhere(case: Case, cut: int) -> None:
    neuron, current = case.neuron(), torch.from_numpy(case.current)
    cut = min(cut, len(current) - 1)
    with torch.no_grad():
        whole, last = neuron(current)
        assume(cut > 0)
        first, state = neuron(current[:cut])
        second, after = neuron(current[cut:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(after.membrane, last.membrane)


@pytest.mark.parametrize("decay", [0.3, [[[0.1]], [[-0.2]], [[0.3]], [[1.0]]]])
@torch.no_grad()
def test_its_decay_is_saved_and_goes_on_training(decay: object, tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    snn = spiking(Residual().eval(), x, PLIF, decay=decay if isinstance(decay, float) else 0.0)
    units = [unit for _, unit in snn.neurons() if isinstance(unit, PLIF)]
    if not isinstance(decay, float):
        units[0].decay = torch.nn.Parameter(torch.tensor(decay), requires_grad=False)
    again = load(save(snn, tmp_path / "plif.safetensors"))
    assert torch.equal(again(x), snn(x)) and snn(x).std() > 0
    for (_, found), unit in zip(again.neurons(), units, strict=True):
        assert isinstance(found, PLIF)
        assert torch.equal(found.decay, unit.decay)
        assert found.decay.requires_grad is unit.decay.requires_grad
