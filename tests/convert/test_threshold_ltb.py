"""Local threshold balancing against a loop in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convert_networks import around, conv, images
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import Calibration
from spiketune.convert.calibration import BATCH
from spiketune.convert.places import places
from spiketune.snn import IF

Array = NDArray[np.float64]
granularity = pytest.mark.parametrize("per", ["channel", "layer"])


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    return net.double().eval()


def build(threshold: torch.Tensor, floor: float | None, ceiling: object) -> IF:
    """Return the neuron that this rule never asks for."""
    return IF(threshold, floor=floor)


def drafts(ann: nn.Module, x: Tensor, per: str, method: type[st.Method] = st.Binary) -> Calibration:
    """Return a calibration whose neurons all have a threshold of one."""
    snn = st.to_snn(ann, x, method(threshold=st.Max()))
    for _, unit in snn.neurons():
        unit.threshold.fill_(1)
    return Calibration(snn, x, places(snn, per), steps=16, build=build)  # type: ignore[arg-type]


def balanced(ann: nn.Sequential, x: Array, rule: st.LTB, per: str) -> list[Array]:
    """Return the thresholds of both layers, batch by batch as the source's rule says."""
    linear = [ann[0], ann[2]]
    weights = [layer.weight.detach().numpy() for layer in linear]
    biases = [layer.bias.detach().numpy() for layer in linear]
    theta = [np.zeros(len(b) if per == "channel" else 1) for b in biases]
    for _ in range(rule.epochs):
        for first in range(0, len(x), BATCH):
            a = x[first : first + BATCH]
            for i in range(2):
                active = np.maximum(a @ weights[i].T + biases[i], 0)
                excess = np.maximum(active - theta[i], 0)
                a = np.minimum(active, theta[i])
                mean = excess.mean(0) if per == "channel" else excess.mean(keepdims=True)[0]
                theta[i] = theta[i] + 2 * rule.rate * mean
    return theta


@granularity
@pytest.mark.parametrize("rule", [st.LTB(rate=0.1, epochs=3), st.LTB()])
def test_thresholds_are_those_of_a_loop(per: str, rule: st.LTB) -> None:
    ann, x = two_layers(), torch.randn(150, 5, dtype=torch.float64)
    found = rule.calibrate(drafts(ann, x, per))
    expected = balanced(ann, x.numpy(), rule, per)
    assert len(found) == 2
    for theta, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(theta, other, rtol=1e-10)
        assert bool((theta > 0).any())


def test_later_layers_see_what_earlier_ones_clip() -> None:
    ann, x = two_layers(), torch.randn(64, 5, dtype=torch.float64)
    with torch.no_grad():
        ann[2].bias.fill_(-1e-3)
    (_, second) = st.LTB(epochs=1).calibrate(drafts(ann, x, "channel")).values()
    # One batch: the first layer still clipped everything, so nothing reached the second.
    assert not second.any()


@granularity
@torch.no_grad()
def test_thresholds_grow_towards_the_largest_activation_and_never_past_it(per: str) -> None:
    ann, x = two_layers(), torch.randn(150, 5, dtype=torch.float64)
    calibration = drafts(ann, x, per)
    few, many = (st.LTB(rate=0.5, epochs=n).calibrate(calibration) for n in (4, 18))
    top = torch.relu(ann[0](x))
    largest = top.amax(0) if per == "channel" else top.max().view(1)
    name = next(iter(few))
    assert bool((few[name] < many[name]).all())
    assert bool((many[name] <= largest).all())


@torch.no_grad()
def test_of_signed_values_the_sizes_are_balanced() -> None:
    ann = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)).double().eval()
    x = torch.randn(50, 6, dtype=torch.float64)
    ((_, theta),) = (
        st.LTB(rate=0.4, epochs=1).calibrate(drafts(ann, x, "channel", st.Ternary)).items()
    )
    size = torch.nn.functional.gelu(ann[0](x)).abs().numpy()
    np.testing.assert_allclose(theta, 0.8 * size.mean(0), rtol=1e-10)


def test_the_network_comes_back_as_it_was_even_after_an_error() -> None:
    ann, x = two_layers(), torch.randn(10, 5, dtype=torch.float64)
    calibration = drafts(ann, x, "channel")
    before = dict(calibration.snn.net.named_modules())
    answer = calibration.snn.ann(x)
    st.LTB(epochs=1).calibrate(calibration)
    assert dict(calibration.snn.net.named_modules()) == before
    assert torch.equal(calibration.snn.ann(x), answer)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    stopped = Calibration(calibration.snn, x, calibration.places, 16, interrupt, build=build)
    with pytest.raises(KeyboardInterrupt):
        st.LTB().calibrate(stopped)
    assert dict(calibration.snn.net.named_modules()) == before


def test_the_images_are_passed_no_more_than_said() -> None:
    ann, x = two_layers(), torch.randn(130, 5, dtype=torch.float64)
    seen: list[tuple[int, int]] = []
    method = st.Binary(threshold=st.LTB(epochs=18))
    st.to_snn(ann, x, method, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 54) for number in range(1, 55)]


@torch.no_grad()
def test_a_convolution_is_balanced_over_images_and_positions() -> None:
    ann, x = around(lambda m, y: torch.relu(m.c(y)), c=conv()).double(), images(20, torch.float64)
    rule = st.LTB(rate=0.25, epochs=1)
    snn = st.to_snn(ann, x, st.Ternary(threshold=rule))
    first = next(unit for _, unit in snn.neurons())
    expected = 0.5 * torch.relu(ann.stem(x)).mean((0, 2, 3))
    np.testing.assert_allclose(
        first.threshold.flatten(), torch.where(expected > 0, expected, expected.max()), rtol=1e-10
    )


def test_settings_and_activations_that_mean_nothing_are_refused() -> None:
    for rate in (0.0, -1.0, 0.51, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            st.LTB(rate=rate)
    for epochs in (0, 19, 1.5):
        with pytest.raises(ValueError, match="epochs"):
            st.LTB(epochs=epochs)  # type: ignore[arg-type]
    ann, x = two_layers(), torch.randn(10, 5, dtype=torch.float64)
    calibration = drafts(ann, x, "channel")
    with torch.no_grad():
        calibration.snn.net.get_parameter("0.weight").fill_(float("inf"))
    with pytest.raises(st.SpiketuneError, match="not finite"):
        st.LTB().calibrate(calibration)
