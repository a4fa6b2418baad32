"""Exact spike times against golden values, a fine grid in NumPy, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import spike_time_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import spiketune
from spiketune.snn import (
    PSP,
    Credit,
    EarliestPool2d,
    KnotPSP,
    LinearPSP,
    RampPSP,
    StepPSP,
    TimedConv2d,
    TimedLinear,
    TrianglePSP,
)
from spiketune.snn.single_spike import eager

HORIZON = 12
SHAPES: dict[str, tuple[PSP, reference.Shape]] = {
    "linear": (LinearPSP(tau=3.0), reference.linear(3.0)),
    "ramp": (RampPSP(tau=2.5), reference.ramp(2.5)),
    "triangle": (TrianglePSP(rise=2.0, fall=4.0), reference.triangle(2.0, 4.0)),
    "step": (StepPSP(), reference.step()),
}
CONTINUOUS = {name: shape for name, shape in SHAPES.items() if name != "step"}
each_shape = pytest.mark.parametrize("name", SHAPES)
each_path = pytest.mark.parametrize("path", ["eager", "compiled"])
seeds = st.integers(0, 10**6)


def drawn(seed: int, *shape: int) -> Tensor:
    """Spike times, a third of them none, some equal."""
    generator = torch.Generator().manual_seed(seed)
    times = 1.4 * HORIZON * torch.rand(shape, generator=generator, dtype=torch.float64)
    rounded = torch.rand(shape, generator=generator) < 0.3
    return torch.where(rounded, times.round(), times).clamp_max(HORIZON)


def weights(seed: int, *shape: int, mean: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(shape, generator=generator, dtype=torch.float64) + mean


def check(found: Tensor, times: np.ndarray, weight: np.ndarray, shape: reference.Shape) -> None:
    """Hold spike times ``[K]`` against the membranes of ``times [N]``, ``weight [K, N]``."""
    grid = np.linspace(0, HORIZON, 3001)[:-1]
    on_grid = reference.membranes(times, weight, shape, grid, HORIZON)
    end = reference.membranes(times, weight, shape, np.array([float(HORIZON)]), HORIZON)[:, 0]
    for k, at in enumerate(found.tolist()):
        early = grid < min(at, HORIZON) - 1e-9
        assert (on_grid[k, early] < 1 + 1e-9).all()  # never before
        if at < HORIZON:
            then = np.array([at - 1e-9, at + 1e-9])
            below, above = reference.membranes(times, weight, shape, then, HORIZON)[k]
            assert below <= 1 + 1e-6 and above >= 1 - 1e-6
        else:
            assert at == pytest.approx(HORIZON + HORIZON * np.log(2 - end[k]))


@each_path
def test_the_golden_case_of_a_linear_potential(path: str) -> None:
    times = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    layer = TimedLinear(torch.tensor([[0.5, 0.3]]).double(), psp=LinearPSP(tau=1.0), horizon=8)
    with spiketune.neuron_path(path):
        found = layer(times)
        found.backward(torch.ones_like(found))
    assert found.item() == pytest.approx(2.625)
    assert layer.weight.grad is not None and times.grad is not None
    torch.testing.assert_close(layer.weight.grad[0], torch.tensor([-2.03125, -0.78125]).double())
    torch.testing.assert_close(times.grad[0], torch.tensor([0.625, 0.375]).double())


@each_path
def test_the_golden_case_of_a_triangle_on_its_falling_flank(path: str) -> None:
    times = torch.tensor([[0.0, 2.5]], dtype=torch.float64, requires_grad=True)
    psp = TrianglePSP(rise=2.0, fall=4.0)
    layer = TimedLinear(torch.tensor([[0.8, 0.9]]).double(), psp=psp, horizon=8)
    with spiketune.neuron_path(path):
        found = layer(times)
        found.backward(torch.ones_like(found))
    assert found.item() == pytest.approx(3.7)
    assert layer.weight.grad is not None and times.grad is not None
    torch.testing.assert_close(layer.weight.grad[0], torch.tensor([-2.3, -2.4]).double())
    torch.testing.assert_close(times.grad[0], torch.tensor([-0.8, 1.8]).double())


@each_shape
def test_a_shape_is_what_numpy_says(name: str) -> None:
    psp, expected = SHAPES[name]
    x = torch.linspace(-1, 9, 201, dtype=torch.float64)
    np.testing.assert_allclose(psp.value(x).numpy(), expected(x.numpy()), atol=1e-12)
    steep = (expected(x.numpy() + 1e-7) - expected(x.numpy())) / 1e-7  # right of each place
    jumps = np.abs(steep) > 1e3
    np.testing.assert_allclose(psp.derivative.value(x).numpy()[~jumps], steep[~jumps], atol=1e-5)


@pytest.mark.parametrize(
    ("points", "slope", "same"),
    [
        (((0, 0),), 0.25, LinearPSP(tau=4.0)),
        (((0, 0), (4, 1)), 0.0, RampPSP(tau=4.0)),
        (((0, 0), (2, 1), (6, 0)), 0.0, TrianglePSP(rise=2.0, fall=4.0)),
        (((0, 1),), 0.0, StepPSP()),
    ],
)
def test_knots_make_the_presets(
    points: tuple[tuple[float, float], ...], slope: float, same: PSP
) -> None:
    x = torch.linspace(-2, 12, 141)
    torch.testing.assert_close(KnotPSP(points=points, slope=slope).value(x), same.value(x))


@each_path
@each_shape
@settings(deadline=None, max_examples=12)
@given(seed=seeds)
def test_dense_neurons_fire_when_a_fine_grid_says(name: str, path: str, seed: int) -> None:
    psp, shape = SHAPES[name]
    times, weight = drawn(seed, 3, 7), weights(seed, 5, 7)
    with spiketune.neuron_path(path), torch.no_grad():
        found = TimedLinear(weight, psp=psp, horizon=HORIZON)(times)
    for image, fired in zip(times, found, strict=True):
        check(fired, image.numpy(), weight.numpy(), shape)


@each_path
@each_shape
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (1, 2), (3, 0)])
def test_convolutions_fire_when_a_fine_grid_says(
    name: str, path: str, stride: int, padding: int
) -> None:
    psp, shape = SHAPES[name]
    times, weight = drawn(3, 2, 2, 6, 7), weights(3, 4, 2, 3, 3, mean=0.15)
    layer = TimedConv2d(
        weight, psp=psp, horizon=HORIZON, stride=(stride, stride), padding=(padding, padding)
    )
    with spiketune.neuron_path(path), torch.no_grad():
        found = layer(times)
    assert bool((found < HORIZON).any()) and bool((found >= HORIZON).any())
    for image, fired in zip(times.numpy(), found, strict=True):
        seen = reference.windows(image, 3, stride, padding, HORIZON)
        assert fired.shape[1:] == seen.shape[:2]
        for place in np.ndindex(*seen.shape[:2]):
            check(fired[:, place[0], place[1]], seen[place], weight.flatten(1).numpy(), shape)


def test_the_earliest_spike_of_each_window_passes() -> None:
    # All different, so that one spike of each window is the earliest.
    times = torch.rand(2, 3, 5, 6, dtype=torch.float64).mul(HORIZON).requires_grad_()
    found = EarliestPool2d(size=2)(times)
    plain = times.detach().numpy()[:, :, :4]
    expected = plain.reshape(2, 3, 2, 2, 3, 2).min((3, 5))
    np.testing.assert_array_equal(found.detach().numpy(), expected)
    wanted = torch.randn(found.shape, dtype=torch.float64)
    found.backward(wanted)
    taken = np.zeros(times.shape)
    for b, c, y, x in np.ndindex(*found.shape):
        window = times.detach().numpy()[b, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        down, right = np.unravel_index(window.argmin(), (2, 2))
        taken[b, c, 2 * y + down, 2 * x + right] = wanted[b, c, y, x]
    assert times.grad is not None
    np.testing.assert_array_equal(times.grad.numpy(), taken)


@pytest.mark.parametrize("name", CONTINUOUS)
@settings(deadline=None, max_examples=15)
@given(seed=seeds)
def test_gradients_are_those_of_finite_differences(name: str, seed: int) -> None:
    psp, _ = SHAPES[name]
    times, weight = drawn(seed, 1, 6).requires_grad_(), weights(seed, 4, 6)
    layer = TimedLinear(weight, psp=psp, horizon=HORIZON)
    layer.credit = Credit(v_min=1e-9)
    found = layer(times)
    slopes = weight @ psp.derivative.value(found.detach()[0, :, None] - times.detach()).mT
    gradients = [
        torch.autograd.grad(one, [times, layer.weight], retain_graph=True) for one in found[0]
    ]
    for k, at in enumerate(found[0].tolist()):
        corners = torch.cat([times.detach()[0] + knot.at for knot in psp.knots])
        bends = min(at, HORIZON) - corners
        if (at < HORIZON and slopes[k, k].abs() < 0.05) or bool((bends.abs() < 1e-3).any()):
            continue  # nearly tangent, or a knot within the step
        if at >= HORIZON and bool((corners[corners < HORIZON] > HORIZON - 1e-3).any()):
            continue
        to_times, to_weight = gradients[k]
        expected = _differences(layer, times.detach(), k)
        torch.testing.assert_close(to_times, expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(to_weight[k], expected[1], rtol=1e-4, atol=1e-5)


def _differences(layer: TimedLinear, times: Tensor, k: int, h: float = 1e-6) -> tuple[Tensor, ...]:
    """Return ``∂t_k/∂t_i`` and ``∂t_k/∂w_ki`` by central differences."""
    found = []
    with torch.no_grad():
        for place in (times[0], layer.weight[k]):
            differences = []
            for i in range(len(place)):
                ends, kept = [], place[i].item()
                for by in (h, -h):
                    place[i] = kept + by
                    ends.append(layer(times)[0, k].item())
                place[i] = kept
                differences.append((ends[0] - ends[1]) / (2 * h))
            found.append(torch.tensor(differences, dtype=torch.float64))
    silent = times[0] >= HORIZON  # no spike, however early it is missed
    found[0][silent] = 0.0
    return found[0][None], found[1]


CREDITS = {
    "exact": Credit(),
    "clamped": Credit(v_min=20.0),
    "displacement": Credit(chain=False),
    "sloped": Credit(chain=False, sloped=True),
    "s4nn": Credit(potential=False, chain=False),
    "real": Credit(real=True),
}


@each_shape
@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0)), ((2, 1), (1, 2))])
def test_the_kernel_and_the_reference_agree(
    name: str,
    credit: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eager, "PIECE", 500)  # several pieces
    found = {}
    for path in ("eager", "compiled"):
        times = drawn(7, 3, 2, 7, 6).requires_grad_()
        layer = TimedConv2d(
            weights(7, 5, 2, 3, 2, mean=0.1),
            psp=SHAPES[name][0], horizon=HORIZON, stride=stride, padding=padding,
            binary=credit == "real",
        )  # fmt: skip
        layer.credit = CREDITS[credit]
        with spiketune.neuron_path(path):
            fired = layer(times)
            generator = torch.Generator().manual_seed(0)
            fired.backward(torch.randn(fired.shape, generator=generator, dtype=torch.float64))
        assert layer.weight.grad is not None and times.grad is not None
        found[path] = fired.detach(), layer.weight.grad, times.grad
    for one, other in zip(found["eager"], found["compiled"], strict=True):
        torch.testing.assert_close(one, other)
    # Of a potential that only jumps no slope goes back.
    assert bool(found["eager"][2].any()) == (name != "step" or credit in {"displacement", "s4nn"})


def test_one_spike_at_a_time_is_a_dense_layer_on_windows() -> None:
    times, weight = drawn(9, 2, 3, 5, 5), weights(9, 4, 3, 5, 5, mean=0.05)
    whole = TimedConv2d(weight, horizon=HORIZON)(times).flatten(1)
    torch.testing.assert_close(whole, TimedLinear(weight.flatten(1), horizon=HORIZON)(times))


@each_path
def test_no_spikes_and_unreachable_thresholds_give_times_behind_the_horizon(path: str) -> None:
    never = torch.full((2, 6), float(HORIZON), dtype=torch.float64, requires_grad=True)
    layer = TimedLinear(weights(1, 4, 6), horizon=HORIZON, threshold=5.0)
    high = TimedLinear(weights(1, 4, 6), horizon=HORIZON, threshold=1e6)
    with spiketune.neuron_path(path):
        dark, unreached = layer(never), high(drawn(1, 2, 6))
        dark.sum().backward()
    torch.testing.assert_close(dark, torch.full_like(dark, HORIZON * (1 + np.log(2))))
    assert bool((unreached > HORIZON).all()) and bool(unreached.isfinite().all())
    assert layer.weight.grad is not None
    assert not bool(layer.weight.grad.any()) and never.grad is not None
    assert not bool(never.grad.any())


@each_path
@pytest.mark.parametrize(
    ("psp", "slope"), [(LinearPSP(tau=8.0), 1 / 8), (RampPSP(tau=8.0), 0.0)], ids=str
)
def test_the_horizon_itself_is_too_late(path: str, psp: PSP, slope: float) -> None:
    times = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    layer = TimedLinear(torch.tensor([[1.0], [1.001]]).double(), psp=psp, horizon=8)
    with spiketune.neuron_path(path):
        found = layer(times)
        found[:, 0].sum().backward()
    assert found[0, 0].item() == 8.0  # V(H) is the threshold: silent, but only just
    assert found[0, 1].item() == pytest.approx(8 / 1.001)
    assert layer.weight.grad is not None and times.grad is not None
    # As if the membrane went on by a threshold a horizon: -ε(H)/(θ/H) an image, ε'(H)/(θ/H).
    torch.testing.assert_close(layer.weight.grad[0], torch.tensor([-16.0]).double())
    torch.testing.assert_close(times.grad, torch.full((2, 1), slope * 8).double())


@each_path
@pytest.mark.parametrize("shape", [(0, 2, 6, 7), (1, 2, 6, 7)])
def test_batches_of_any_size_and_layout_are_taken(path: str, shape: tuple[int, ...]) -> None:
    times = drawn(4, *shape)
    layer = TimedConv2d(weights(4, 3, 2, 3, 3), horizon=HORIZON)
    with spiketune.neuron_path(path), torch.no_grad():
        plain = layer(times)
        turned = layer(times.transpose(2, 3).contiguous().transpose(2, 3))
        last = layer(times.contiguous(memory_format=torch.channels_last))
    assert plain.shape == (shape[0], 3, 4, 5)
    assert torch.equal(plain, turned) and torch.equal(plain, last)
