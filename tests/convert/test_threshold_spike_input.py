"""Balancing on spikes that really arrive, against a simulation in NumPy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from convert_networks import around, conv, images
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import Calibration
from spiketune.convert.method import builder_of
from spiketune.convert.places import places
from spiketune.snn import Poisson

Array = NDArray[np.float64]
granularity = pytest.mark.parametrize("per", ["channel", "layer"])
STEPS = 12


def three_layers() -> nn.Sequential:
    widths, layers = [5, 9, 8, 6], []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double().eval()


def integrate(current: Array, theta: Array) -> Array:
    """Return what binary neurons send, starting at half a threshold, ``[T, B, C]``."""
    membrane = np.zeros_like(current[0]) + theta / 2
    sent = []
    for now in current:
        membrane = membrane + now
        fires = membrane >= theta
        membrane = membrane - theta * fires
        sent.append(theta * fires)
    return np.stack(sent)


def balanced(ann: nn.Sequential, signal: Array, rule: st.SpikeInput, per: str) -> list[Array]:
    """Return the thresholds layer by layer; ``signal [T, B, C]`` is the input over time."""
    found = []
    for layer in ann[:-1:2]:
        current = signal @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        rows = np.maximum(current, 0).reshape(-1, current.shape[-1])
        rows = rows if per == "channel" else rows.reshape(-1, 1)
        theta = np.percentile(rows, rule.percent, axis=0, method="inverted_cdf")
        theta = rule.scale * np.where(theta > 0, theta, rows.max(0))
        found.append(np.where(theta > 0, theta, theta.max()))
        signal = integrate(current, found[-1])
    return found


def thresholds(snn: st.SpikingNetwork) -> list[Array]:
    return [unit.threshold.detach().flatten().numpy() for _, unit in snn.neurons()]


@granularity
@pytest.mark.parametrize(
    "rule",
    [
        st.SpikeInput(percent=100),
        st.SpikeInput(percent=80, scale=0.7),
        st.SpikeInput(percent=5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("coding", ["constant", "poisson"])
def test_thresholds_are_those_of_a_simulation(coding: str, rule: st.SpikeInput, per: str) -> None:
    ann, x = three_layers(), torch.randn(30, 5, dtype=torch.float64)
    method = st.Binary(steps=STEPS, threshold=rule, per=per, input=coding)  # type: ignore[arg-type]
    found = thresholds(st.to_snn(ann, x, method))
    still = x.expand(STEPS, 30, 5)
    if coding == "poisson":
        signal, _ = Poisson(scale=float(x.abs().max())).eval()(still)
        assert signal.abs().unique().tolist() == pytest.approx([0.0, float(x.abs().max())])
    expected = balanced(ann, (signal if coding == "poisson" else still).numpy(), rule, per)
    for theta, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(theta, other, rtol=1e-10)


def test_with_poisson_input_the_first_layer_sees_spikes_of_the_image() -> None:
    ann, x = three_layers(), torch.rand(40, 5, dtype=torch.float64)
    first = [
        thresholds(st.to_snn(ann, x, st.Binary(threshold=st.SpikeInput(), input=coding)))[0]
        for coding in ("constant", "poisson")
    ]
    assert (first[1] > first[0]).any()


@pytest.mark.parametrize("rule", [st.Gaussian(), st.LTB()], ids=repr)
def test_poisson_input_changes_nothing_for_rules_that_look_at_the_ann(
    rule: st.LTB | st.Gaussian,
) -> None:
    ann, x = three_layers(), torch.rand(40, 5, dtype=torch.float64)
    constant = st.to_snn(ann, x, st.Binary(threshold=rule))
    poisson = st.to_snn(ann, x, st.Binary(threshold=rule, input="poisson"))
    assert [name for name, _ in constant.neurons()] == [name for name, _ in poisson.neurons()]
    for one, other in zip(thresholds(constant), thresholds(poisson), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(isinstance(unit, Poisson) for unit in poisson.modules())


def test_scaling_the_first_layer_changes_what_later_layers_get() -> None:
    ann, x = three_layers(), torch.rand(40, 5, dtype=torch.float64)
    whole, part = (
        thresholds(st.to_snn(ann, x, st.Binary(threshold=st.SpikeInput(percent=100, scale=scale))))
        for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(part[0], whole[0] / 2)
    assert not np.allclose(part[1], whole[1] / 2)


@granularity
@torch.no_grad()
def test_a_convolution_is_balanced_over_images_positions_and_steps(per: str) -> None:
    ann, x = around(lambda m, y: torch.relu(m.c(y)), c=conv()).double(), images(9, torch.float64)
    method = st.Ternary(steps=5, threshold=st.SpikeInput(percent=100), per=per)  # type: ignore[arg-type]
    snn = st.to_snn(ann, x, method)
    (first, second) = (unit for _, unit in snn.neurons())
    spikes, _ = first(ann.stem(x).expand(5, 9, 4, 8, 8))
    current = torch.relu(ann.c(spikes.flatten(0, 1)))
    largest = current.amax((0, 2, 3)) if per == "channel" else current.max().view(1)
    expected = torch.where(largest > 0, largest, largest.max())
    np.testing.assert_allclose(second.threshold.flatten(), expected, rtol=1e-10)


@torch.no_grad()
def test_bounds_and_signs_are_kept_while_balancing() -> None:
    ann = nn.Sequential(nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2))
    ann = ann.double().eval()
    ann[0].weight.mul_(20)
    x = torch.randn(30, 6, dtype=torch.float64)
    snn = st.to_snn(ann, x, st.Ternary(steps=STEPS, threshold=st.SpikeInput(percent=100)))
    (bounded, signed) = (unit for _, unit in snn.neurons())
    assert float(bounded.threshold.max()) == 6
    spikes, _ = bounded(ann[0](x).expand(STEPS, 30, 5))
    mean = ann[2](spikes).cumsum(0) / torch.arange(1, STEPS + 1).view(-1, 1, 1)
    total = torch.nn.functional.gelu(mean) * torch.arange(1, STEPS + 1).view(-1, 1, 1)
    current = torch.diff(total, dim=0, prepend=torch.zeros_like(total[:1]))
    np.testing.assert_allclose(signed.threshold.flatten(), current.abs().amax((0, 1)), rtol=1e-8)


def test_steps_and_images_may_be_fewer_and_lie_spread() -> None:
    ann, x = three_layers(), torch.randn(30, 5, dtype=torch.float64)
    rule = st.SpikeInput(percent=100, images=4, balancing_steps=3)
    found = thresholds(st.to_snn(ann, x, st.Binary(steps=STEPS, threshold=rule)))
    few: Tensor = x[[0, 9, 19, 29]]
    for theta, other in zip(
        found, balanced(ann, few.expand(3, 4, 5).numpy(), rule, "channel"), strict=True
    ):
        np.testing.assert_allclose(theta, other, rtol=1e-10)


def test_one_walk_reports_its_progress() -> None:
    ann, x = three_layers(), torch.rand(10, 5, dtype=torch.float64)
    seen: list[tuple[int, int]] = []
    method = st.Binary(threshold=st.SpikeInput())
    st.to_snn(ann, x, method, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@torch.no_grad()
def test_silence_and_infinity_are_refused() -> None:
    x = torch.rand(10, 5, dtype=torch.float64)
    dead = three_layers()
    dead[2].bias.fill_(-100)
    with pytest.raises(st.ConversionError, match="no activation above zero"):
        st.to_snn(dead, x, st.Binary(threshold=st.SpikeInput()))
    snn = st.to_snn(three_layers(), x, st.Binary())
    snn.net.get_parameter("2.weight").fill_(float("inf"))
    build = partial(builder_of(st.Binary()), st.Binary())
    with pytest.raises(st.SpiketuneError, match="not finite"):
        st.SpikeInput().calibrate(Calibration(snn, x, places(snn, "channel"), 16, build=build))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"percent": 0.0}, "percent"),
        ({"percent": 100.5}, "percent"),
        ({"percent": float("nan")}, "percent"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"balancing_steps": 0}, "balancing_steps"),
        ({"images": 0}, "images"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        st.SpikeInput(**settings)  # type: ignore[arg-type]
