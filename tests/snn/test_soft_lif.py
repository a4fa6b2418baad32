"""The soft LIF curve: golden values, NumPy, finite differences, and one node in a graph."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, export

from spiketune.snn import SoftLIF, SpiketuneError, soft_lif
from spiketune.snn.soft_lif import SOFT_LIF

Array = NDArray[np.float64]
quick = settings(max_examples=80, deadline=None, derandomize=True)
AT = [0.9, 1.0, 1.01, 1.05, 1.5, 2.0, 5.0]
# Of the notes on soft LIF: tau_rc 0.02, tau_ref 0.002, in Hz.
SOFT = [5.5460, 11.3835, 12.3226, 16.0516, 41.7149, 63.0400, 154.7300]
HARD = [0.0, 0.0, 10.6042, 15.9007, 41.7149, 63.0400, 154.7300]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "rates"), [(0.02, SOFT), (0.0, HARD)])
def test_golden_rates(gamma: float, rates: list[float], dtype: torch.dtype) -> None:
    found = soft_lif(torch.tensor(AT, dtype=dtype), gamma=gamma, amplitude=1.0)
    near = 6e-5 if dtype == torch.float64 else 2e-3  # 1.01 - 1 is not exact in single precision
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx(rates, abs=near)


def reference(current: Array, tau_rc: float, tau_ref: float, gamma: float) -> Array:
    """Return the rates in extended precision, far below 1 from the limit of the logarithm."""
    z = (current.astype(np.longdouble) - 1) / gamma
    rho = gamma * np.where(z > 0, z + np.log1p(np.exp(-abs(z))), np.log1p(np.exp(np.minimum(z, 0))))
    with np.errstate(divide="ignore"):
        log = np.where(z < -1000, -z - np.log(gamma), np.log1p(1 / rho))
    return (1 / (tau_ref + tau_rc * log)).astype(np.float64)


constants = {
    "tau_rc": some.floats(1e-3, 0.1),
    "tau_ref": some.floats(1e-4, 1e-2),
    "gamma": some.floats(1e-3, 0.5),
}


@given(some.lists(some.floats(-1e5, 1e5), min_size=1), some.fixed_dictionaries(constants))
@quick
def test_it_equals_numpy_for_any_current(current: list[float], given: dict[str, float]) -> None:
    x = np.asarray(current)
    found = soft_lif(torch.from_numpy(x), **given, amplitude=1.0)
    np.testing.assert_allclose(found.numpy(), reference(x, **given), rtol=2e-9)


@given(some.fixed_dictionaries(constants))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_its_slope_is_that_of_finite_differences(given: dict[str, float]) -> None:
    gamma = given["gamma"]
    # On both sides of z = -20, where the formula changes, too.
    z = [-1e3, -21.0, -20.01, -19.99, -15.0, -1.0, 0.0, 1.0, 19.0, 21.0, 200.0]
    current = torch.tensor([1 + gamma * one for one in z], dtype=torch.float64, requires_grad=True)
    curve = lambda x: soft_lif(x, **given)  # noqa: E731
    step = 1e-5 * gamma
    (slope,) = torch.autograd.grad(curve(current).sum(), current)
    with torch.no_grad():
        expected = (curve(current + step) - curve(current - step)) / (2 * step)
    np.testing.assert_allclose(slope.numpy(), expected.numpy(), rtol=1e-5, atol=1e-9)
    assert bool((slope > 0).all())


def test_gradients_of_gradients_are_right_too() -> None:
    x = torch.tensor([0.7, 0.95, 1.0, 1.3, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(soft_lif, x)


def test_the_hard_curve_has_no_slope_below_one_and_its_own_above() -> None:
    x = torch.tensor([-3.0, 1.0, 1.1, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(soft_lif(x, gamma=0.0).sum(), x)
    with torch.no_grad():
        up, down = (soft_lif(x + sign * 1e-6, gamma=0.0) for sign in (1, -1))
    assert slope[:2].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(slope[2:], ((up - down) / 2e-6)[2:], rtol=1e-6)


@given(some.floats(-5.0, 8.0))
@quick
def test_the_soft_curve_tends_to_the_hard_one(current: float) -> None:
    x = torch.tensor(current, dtype=torch.float64)
    hard = soft_lif(x, gamma=0.0)
    apart = [float((soft_lif(x, gamma=gamma) - hard).abs()) for gamma in (0.1, 0.01, 1e-6)]
    assert apart[0] >= apart[1] - 1e-12 and apart[1] >= apart[2] - 1e-12
    assert apart[2] < 0.04  # A/(τ_rc ln(1/γ)) at 1, where the curve begins: slow


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.02, 0.0])
def test_no_current_is_too_large(gamma: float, dtype: torch.dtype) -> None:
    x = torch.tensor([-6e4, -1e4, -1.0, 0.99, 1.0, 1.01, 6e4], dtype=dtype, requires_grad=True)
    rates = soft_lif(x, gamma=gamma)
    rates.sum().backward()
    assert rates.dtype == dtype and x.grad is not None
    assert bool(rates.isfinite().all() and x.grad.isfinite().all())
    assert bool((rates >= 0).all()) and rates.max().item() <= 0.01 / 0.002 * 1.01
    assert bool((rates.diff() >= 0).all())


def test_autocast_loses_nothing_but_the_last_bits() -> None:
    layer = nn.Sequential(nn.Linear(4, 3), SoftLIF()).eval()
    x = torch.rand(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), layer(x), atol=0.02)


def test_a_graph_holds_it_as_one_node_with_its_settings() -> None:
    net = nn.Sequential(nn.Linear(4, 3), SoftLIF(tau_rc=0.03, tau_ref=0.001, gamma=0.05)).eval()
    program = export(net, (torch.rand(2, 4),), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    (node,) = program.graph.find_nodes(op="call_function", target=SOFT_LIF)
    assert node.args[1:] == (0.03, 0.001, 0.05, 0.01)
    x = torch.rand(7, 4)
    assert torch.equal(program.module()(x), net(x))


def test_noise_wavers_about_the_rate_in_training_only() -> None:
    layer, x = SoftLIF(amplitude=0.02, noise=10.0), torch.full((200_000,), 1.5)
    torch.manual_seed(3)
    noise = layer(x) - layer.eval()(x)
    assert torch.equal(layer(x), soft_lif(x, amplitude=0.02))
    count = len(x)
    assert noise.std().item() == pytest.approx(10.0 * 0.02, rel=5 / math.sqrt(2 * count))
    assert abs(noise.mean().item()) < 5 * 0.2 / math.sqrt(count)
    torch.manual_seed(3)
    assert torch.equal(layer.train()(x) - layer.eval()(x), noise)


def test_without_noise_training_changes_nothing() -> None:
    x, before = torch.rand(9), torch.get_rng_state()
    assert torch.equal(SoftLIF().train()(x), SoftLIF().eval()(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["tau_rc", "tau_ref", "amplitude"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_constants_that_are_not_above_zero_are_refused(name: str, value: float) -> None:
    for make in (SoftLIF, lambda **given: soft_lif(torch.ones(1), **given)):
        with pytest.raises(SpiketuneError, match=f"^{name} must be above 0"):
            make(**{name: value})


@pytest.mark.parametrize("name", ["gamma", "noise"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_negative_widths_are_refused(name: str, value: float) -> None:
    with pytest.raises(SpiketuneError, match=f"^{name} must be at least 0"):
        SoftLIF(**{name: value})
