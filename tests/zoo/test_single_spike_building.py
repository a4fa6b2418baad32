"""Building networks of exact spike times, and weights to start them from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.snn import LinearPSP, spike_times_of, timed_layers
from spiketune.zoo import ModelError


def images(count: int = 24) -> torch.Tensor:
    x = torch.rand(count, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    return (1.5 * x - 0.5).clamp_min(0)


def layers() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(200, 20, bias=False), nn.Linear(20, 5, bias=False),
    ]  # fmt: skip


def test_weights_are_those_of_the_layers() -> None:
    given = layers()
    snn = st.single_spike(nn.Sequential(*given), (1, 10, 10), window=8, horizon=20)
    assert isinstance(given[0], nn.Conv2d)
    found = timed_layers(snn)
    assert list(found) == ["conv1", "linear3", "linear4"]
    assert torch.equal(found["conv1"].weight, given[0].weight)
    assert found["conv1"].psp == LinearPSP(tau=8) and snn.steps == 20
    assert snn.report.neurons == 3 and snn.pretrained_cfg["mean"] == [0.0]


@pytest.mark.parametrize("binary", [False, True])
def test_neurons_fire_as_often_and_as_late_as_asked(binary: bool) -> None:
    torch.manual_seed(0)
    snn = st.single_spike(layers(), (1, 10, 10), binary=binary)
    st.fit_times(snn, images(), share=0.7, at=0.4)
    times = spike_times_of(snn, images())
    for name, fired in list(times.fired.items())[:2]:
        first = times.arriving[name].min()
        assert 0.55 < float((fired < 32).float().mean()) < 0.85, name
        half = fired.detach().quantile(0.35)  # of those that fire
        assert 0.3 < (half - first) / (32 - first) < 0.5, name


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(1, 2, 3), "layer 0: a bias has no time"),
        (nn.Conv2d(2, 2, 3, groups=2, bias=False), "no groups"),
        (nn.Conv2d(1, 2, 3, dilation=2, bias=False), "no dilation"),
        (nn.Conv2d(1, 2, 3, padding="same", bias=False), "padding by number"),
        (nn.MaxPool2d(3, stride=2), "lie side by side"),
        (nn.MaxPool2d(2, ceil_mode=True), "drop an odd border"),
        (nn.Flatten(2), "all of an image is flattened"),
        (nn.BatchNorm2d(1), "cannot pass a BatchNorm2d"),
        (nn.AvgPool2d(2), "cannot pass a AvgPool2d"),
    ],
)
def test_layers_that_spike_times_cannot_pass_are_refused(layer: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        st.single_spike([layer, nn.Linear(4, 2, bias=False)], (1, 8, 8))


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="give a Linear layer last"):
        st.single_spike([nn.Conv2d(1, 2, 3, bias=False)], (1, 8, 8))
    with pytest.raises(st.SpiketuneError, match="99 inputs is given 64"):
        st.single_spike([nn.Linear(99, 2, bias=False)], (1, 8, 8))
    with pytest.raises(st.SpiketuneError, match="does not fit"):
        st.single_spike([nn.Conv2d(1, 2, 9, bias=False), nn.Linear(4, 2, bias=False)], (1, 8, 8))


def test_fitting_refuses_what_it_cannot_fit() -> None:
    snn = st.single_spike(layers(), (1, 10, 10))
    for value in (0.0, 1.0, -1, float("nan"), True, "0.5", None):
        for name in ("share", "last", "at"):
            with pytest.raises(ModelError, match=f"{name} must lie between"):
                st.fit_times(snn, images(), **{name: value})  # type: ignore[arg-type]
    for limit in (0, -1, 2.5, None):
        with pytest.raises(ModelError, match="at least one must be looked at"):
            st.fit_times(snn, images(), limit=limit)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="0 images"):
        st.fit_times(snn, images()[:0])
    with pytest.raises(ModelError, match="no spike reaches conv1"):
        st.fit_times(snn, torch.zeros(4, 1, 10, 10))
    plain = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 4, (4,))
    with pytest.raises(st.SpiketuneError, match="single_spike"):
        st.fit_times(plain, torch.rand(3, 4))


def test_weights_that_are_all_alike_can_be_fitted() -> None:
    layer = nn.Linear(100, 4, bias=False)
    for weight in (-0.3, 0.2):
        nn.init.constant_(layer.weight, weight)
        snn = st.single_spike([layer], (1, 10, 10))
        st.fit_times(snn, images())
        assert bool((spike_times_of(snn, images()).output < 32).all())
    one = st.single_spike([nn.Linear(1, 1, bias=False)], (1,))
    st.fit_times(one, torch.rand(8, 1))
    assert bool(next(one.parameters()).isfinite().all())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"psp": st.RampPSP(tau=5.0), "window": 8, "horizon": 20, "threshold": 2.0, "binary": True},
    ],
)
def test_settings_of_a_file_build_the_network(given: dict[str, Any]) -> None:
    weights = layers()
    snn = st.FirstSpikeNeuron(**given).network(weights, (1, 10, 10))
    other = st.single_spike(weights, (1, 10, 10), **given)
    assert torch.equal(snn(images()), other(images())) and snn.steps == other.steps
    for one, same in zip(*(timed_layers(net).values() for net in (snn, other)), strict=True):
        assert (one.psp, one.threshold, one.binary) == (same.psp, same.threshold, same.binary)
    assert timed_layers(snn)["conv1"].psp == given.get("psp", LinearPSP(tau=16.0))


def test_other_tools_refuse_them_in_a_sentence() -> None:
    snn = st.single_spike(layers(), (1, 10, 10))
    for use, words in (
        (lambda: st.add_frames(snn, 4), "conv1 sends one spike.*takes images, not frames"),
        (lambda: st.costs(snn), "see sweep"),
        (lambda: st.doctor(snn, images()), "no ANN to be compared with"),
        (lambda: st.to_snn(snn, images()), "spikes already"),
        (lambda: st.add_delays(snn), "nothing to delay"),
    ):
        with pytest.raises(st.SpiketuneError, match=words):
            use()
