"""Thresholds against NumPy on the raw activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from convert_networks import Around, around, conv, images
from numpy.typing import NDArray
from torch import Tensor

import spiketune as st
from spiketune.convert import Histogram
from spiketune.convert.calibration import BINS

Array = NDArray[np.float64]


def network() -> Around:
    return around(lambda m, y: torch.relu(m.c(y)), c=conv()).double()


@torch.no_grad()
def raw(ann: Around, x: Tensor, per: str) -> list[Array]:
    """Return the activations of both layers, ``[channels or 1, values]``, from plain torch."""
    first = torch.relu(ann.stem(x))
    found = [first, torch.relu(ann.c(first))]
    return [
        (a.transpose(0, 1).flatten(1) if per == "channel" else a.view(1, -1)).numpy() for a in found
    ]


def thresholds(snn: st.SpikingNetwork) -> list[Array]:
    return [unit.threshold.detach().flatten().numpy() for _, unit in snn.neurons()]


granularity = pytest.mark.parametrize("per", ["channel", "layer"])


@granularity
def test_max_is_the_largest_activation(per: str) -> None:
    ann, x = network(), images(80, torch.float64)  # more than one batch of the observer
    snn = st.to_snn(ann, x, st.Binary(threshold=st.Max(), per=per))  # type: ignore[arg-type]
    for found, values in zip(thresholds(snn), raw(ann, x, per), strict=True):
        np.testing.assert_allclose(found, values.max(1), rtol=1e-12)


@granularity
@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_a_percentile_lies_within_a_bin_of_numpys(per: str, percent: float) -> None:
    ann, x = network(), images(40, torch.float64)
    method = st.Binary(threshold=st.Percentile(percent=percent), per=per)  # type: ignore[arg-type]
    for found, values in zip(thresholds(st.to_snn(ann, x, method)), raw(ann, x, per), strict=True):
        width = values.max(1) / BINS
        expected = np.percentile(values, percent, axis=1, method="inverted_cdf")
        live = expected > 0  # one among the zeros is a bin's width instead
        assert ((found - expected)[live] >= -1e-9).all()
        assert ((found - expected)[live] <= width[live] + 1e-9).all()
        np.testing.assert_allclose(found[~live], width[~live])


def squared_error(values: Array, theta: float, levels: int) -> float:
    coded = np.clip(np.floor(levels * values / theta + 0.5), 0, levels) * theta / levels
    return float(((coded - values) ** 2).sum())


@granularity
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_mse_is_the_best_of_a_brute_force_grid_on_raw_values(per: str, steps: int) -> None:
    ann, x = network(), images(40, torch.float64)
    snn = st.to_snn(ann, x, st.Ternary(threshold=st.MSE(), steps=steps, per=per))  # type: ignore[arg-type]
    for found, values in zip(thresholds(snn), raw(ann, x, per), strict=True):
        for theta, row in zip(found, values, strict=True):
            grid = [row.max() * (1 - 0.01 * k) for k in range(95)]
            errors = [squared_error(row, candidate, steps) for candidate in grid]
            assert np.isclose(grid, theta, rtol=1e-9).any()
            # Bins of 1/2048 blur the error a little; no candidate is better by more than that.
            assert squared_error(row, theta, steps) <= min(errors) * 1.005 + 1e-9


def test_levels_may_differ_from_steps() -> None:
    values = Histogram.of(torch.rand(3, 5000), bins=2048)
    same = st.MSE(levels=3).balance(values, steps=64)
    assert torch.equal(same, st.MSE().balance(values, steps=3))
    assert not torch.equal(same, st.MSE().balance(values, steps=64))


def test_a_histogram_counts_every_value_once() -> None:
    values = torch.tensor([[0.0, 0.0, 0.1, 0.5, 0.51, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    found = Histogram.of(values, bins=2)
    assert found.counts.tolist() == [[2, 2, 2], [6, 0, 0]]
    assert found.maximum.tolist() == [1, 0]
    halves = (
        Histogram.empty(found.maximum, 2, found.mean, found.deviation)
        .add(values[:, 3:])
        .add(values[:, :3])
    )
    assert torch.equal(halves.counts, found.counts)


@granularity
def test_order_and_form_of_the_images_do_not_matter(per: str) -> None:
    ann, x = network(), images(30, torch.float64)
    labels = torch.arange(30)
    method = st.Ternary(per=per)  # type: ignore[arg-type]
    expected = thresholds(st.to_snn(ann, x, method))
    forms = [
        x[torch.randperm(30)],
        [(x[:7], labels[:7]), (x[7:], labels[7:])],
        [x[:29], x[29:]],
        ([a, b] for a, b in zip(x.split(4), labels.split(4), strict=True)),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), 9, shuffle=True),
    ]
    for form in forms:
        snn = st.to_snn(ann, form, method)  # type: ignore[arg-type]
        assert snn.about["calibration_images"] == 30
        for a, b in zip(thresholds(snn), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


def test_no_more_images_are_read_than_wanted() -> None:
    ann, x = network(), images(30, torch.float64)
    read: list[int] = []

    def loader() -> Iterator[Tensor]:
        for batch in x.split(6):
            read.append(len(batch))
            yield batch

    snn = st.to_snn(ann, loader(), st.Ternary(calibration_images=10))
    assert read == [6, 6]
    assert snn.about["calibration_images"] == 10
    for a, b in zip(thresholds(snn), thresholds(st.to_snn(ann, x[:10], st.Ternary())), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", [st.Max(), st.MSE(), st.Percentile(percent=99.0)])
@torch.no_grad()
def test_a_dead_channel_takes_the_layers_largest_threshold(
    rule: st.Max | st.MSE | st.Percentile,
) -> None:
    ann, x = network(), images(20, torch.float64)
    ann.stem.bias[1] = -100
    snn = st.to_snn(ann, x, st.Ternary(threshold=rule))
    first = thresholds(snn)[0]
    assert first[1] == first[[0, 2, 3]].max() > 0
    assert bool(snn(x).isfinite().all())


@torch.no_grad()
def test_a_dead_layer_is_refused() -> None:
    ann = network()
    ann.c.bias.fill_(-100)
    with pytest.raises(st.ConversionError, match="no activation above zero"):
        st.to_snn(ann, images(4, torch.float64), st.Ternary())


def test_rules_refuse_settings_that_mean_nothing() -> None:
    for percent in (0.0, -1.0, 100.1, float("nan")):
        with pytest.raises(ValueError, match="percent"):
            st.Percentile(percent=percent)
    with pytest.raises(ValueError, match="levels"):
        st.MSE(levels=0)


@granularity
def test_thresholds_have_the_shape_of_their_granularity(per: str) -> None:
    snn = st.to_snn(network(), images(4, torch.float64), st.Ternary(per=per))  # type: ignore[arg-type]
    wanted = (4, 1, 1) if per == "channel" else ()
    assert {tuple(unit.threshold.shape) for _, unit in snn.neurons()} == {wanted}
    assert {unit.threshold.dtype for _, unit in snn.neurons()} == {torch.float64}
