"""The Gaussian fixed point against an integral of the squared error, minimised by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convert_networks import around, conv, images
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import Histogram

Array = NDArray[np.float64]


def squared_error(
    mean: float, deviation: float, levels: int, thresholds: Array, signed: bool
) -> Array:
    """Return ``E[(Q(a) - a)²]`` of each threshold, summed over a fine grid of the density."""
    z = np.linspace(mean - 9 * deviation, mean + 9 * deviation, 8001)
    density = np.exp(-((z - mean) ** 2) / (2 * deviation**2))
    density /= density.sum()
    a = z if signed else np.maximum(z, 0)
    found = []
    for theta in thresholds:
        coded = theta / levels * np.clip(np.floor(levels * np.abs(a) / theta + 0.5), 0, levels)
        found.append((((coded - np.abs(a)) ** 2) * density).sum())
    return np.array(found)


def histogram(means: list[float], deviations: list[float], top: float = 1e3) -> Histogram:
    """Return a histogram of so many values that even rare ones are to be expected."""
    mean, deviation = torch.tensor(means).double(), torch.tensor(deviations).double()
    empty = Histogram.empty(torch.full_like(mean, top), 4, mean, deviation)
    return empty.add(torch.zeros(len(mean), 1).double().expand(-1, 100_000))


NORMALS = [(0.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (-3.0, 0.5), (3.0, 0.3), (20.0, 2.0), (0.01, 5.0)]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_no_threshold_of_a_fine_grid_is_better(steps: int, signed: bool) -> None:
    means, deviations = map(list, zip(*NORMALS, strict=True))
    means[3] = -1.5  # -3 deviations: one of 700 is active
    seen = histogram(means, deviations)
    found = st.Gaussian().balance(seen, steps, signed=signed)
    for mean, deviation, theta in zip(means, deviations, found.tolist(), strict=True):
        size = abs(mean) if signed else max(mean, 0.0)
        grid = np.linspace(0.05 * deviation, size + 10 * deviation, 400)
        errors = squared_error(mean, deviation, steps, grid, signed)
        (own,) = squared_error(mean, deviation, steps, np.array([theta]), signed)
        assert own <= errors.min() * (1 + 1e-4)
        near = theta * np.array([0.98, 1.02])
        assert own <= squared_error(mean, deviation, steps, near, signed).min()


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.0, 2.0), (2.0, 1.0)])
def test_the_threshold_is_a_fixed_point_of_the_published_factor(
    mean: float, deviation: float
) -> None:
    levels = 8
    (theta,) = st.Gaussian(levels=levels).balance(histogram([mean], [deviation]), 1).tolist()
    odd = 2 * np.arange(1, levels + 1) - 1
    u = odd * theta / (2 * levels) - mean
    erf = torch.erf(torch.from_numpy(u) / (2**0.5 * deviation)).numpy()
    bell = np.exp(-(u**2) / (2 * deviation**2))
    below = 1 - (odd * erf).sum() / levels**2
    factor = mean / theta * (1 - erf.mean()) / below
    factor += deviation / (theta * np.sqrt(np.pi / 2)) * bell.mean() / below
    np.testing.assert_allclose(factor, 1, rtol=1e-6)


def test_a_signed_threshold_does_not_depend_on_the_sign_of_the_mean() -> None:
    found = st.Gaussian().balance(histogram([0.7, -0.7], [1.0, 1.0]), 4, signed=True)
    assert found[0] == found[1]


def test_currents_that_hardly_vary_and_channels_that_hardly_act() -> None:
    values = torch.zeros(4, 1000)
    values[0] = 0.3  # always the same
    values[1] = -0.3  # never active
    values[2] = -1 + 0.01 * torch.randn(1000)
    values[2, 0] = 0.5  # active once, 20 deviations off
    values[3] = torch.randn(1000)
    seen = Histogram.of(values, bins=64)
    found = st.Gaussian().balance(seen, steps=4)
    np.testing.assert_allclose(found[:3], [0.3, 0.0, 0.5], rtol=1e-6)
    assert bool(found.isfinite().all())
    assert 1.5 < float(found[3]) < 3


def test_levels_may_differ_from_steps() -> None:
    seen = histogram([0.0, 1.0], [1.0, 1.0])
    same = st.Gaussian(levels=3).balance(seen, steps=64)
    assert torch.equal(same, st.Gaussian().balance(seen, steps=3))
    assert bool((same < st.Gaussian().balance(seen, steps=64)).all())
    with pytest.raises(ValueError, match="levels"):
        st.Gaussian(levels=0)


@pytest.mark.parametrize("per", ["channel", "layer"])
@torch.no_grad()
def test_a_network_is_balanced_on_the_currents_of_its_layers(per: str) -> None:
    ann, x = around(lambda m, y: torch.relu(m.c(y)), c=conv()).double(), images(80, torch.float64)
    method = st.Binary(steps=4, threshold=st.Gaussian(), per=per)  # type: ignore[arg-type]
    found = [unit.threshold.flatten() for _, unit in st.to_snn(ann, x, method).neurons()]
    first = ann.stem(x)
    for theta, current in zip(found, [first, ann.c(torch.relu(first))], strict=True):
        rows = current.transpose(0, 1).flatten(1) if per == "channel" else current.view(1, -1)
        expected = st.Gaussian().balance(Histogram.of(rows, bins=16), steps=4)
        expected = torch.where(expected > 0, expected, expected.max())
        np.testing.assert_allclose(theta, expected, rtol=1e-9)


@torch.no_grad()
def test_an_encoder_is_balanced_for_both_signs() -> None:
    ann = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)).double().eval()
    x: Tensor = torch.randn(200, 6, dtype=torch.float64) + 1
    snn = st.to_snn(ann, x, st.Ternary(steps=4, threshold=st.Gaussian()))
    ((_, unit),) = snn.neurons()
    rows = torch.nn.functional.gelu(ann[0](x)).T
    for theta, row in zip(unit.threshold.flatten().tolist(), rows, strict=True):
        mean, deviation = float(row.mean()), float(row.std(correction=0))
        grid = np.linspace(0.05, abs(mean) + 10 * deviation, 400)
        errors = squared_error(mean, deviation, 4, grid, signed=True)
        (own,) = squared_error(mean, deviation, 4, np.array([theta]), signed=True)
        assert own <= errors.min() * (1 + 1e-4)
