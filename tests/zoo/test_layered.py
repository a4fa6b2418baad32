"""Networks from the words of papers: against networks of torch's own layers, written out here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

import spiketune as st
from spiketune.snn import Recurrent, Synapse
from spiketune.zoo import is_layered
from spiketune.zoo.layered import planned
from spiketune.zoo.pooling import WindowSum


def by_hand() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 9, bias=False), nn.ReLU(),
        nn.Linear(9, 5, bias=False), nn.ReLU(),
    )  # fmt: skip


def test_words_make_the_layers_that_they_name() -> None:
    torch.manual_seed(0)
    plan = planned("4C3-P2-6C3p1s2-9", 5, (2, 9, 9))
    torch.manual_seed(0)
    net, images = by_hand(), torch.randn(3, 2, 9, 9)
    torch.testing.assert_close(plan.ann(images), net(images))
    assert plan.recurrent == ()


def test_the_network_is_the_spiking_twin_of_these_layers() -> None:
    torch.manual_seed(0)
    snn = st.layered("4C3-P2-6C3p1s2-9", 5, 6, (2, 9, 9), gain=3.0)
    torch.manual_seed(0)
    net, images = by_hand(), torch.rand(3, 2, 9, 9)
    for weight in net.parameters():
        weight.data *= 3
    twin = st.twin(net, 6, (2, 9, 9))
    with torch.no_grad():
        sent, wanted = snn.unroll(images), twin.unroll(images)
    assert 0 < wanted.count_nonzero() < wanted.numel()
    torch.testing.assert_close(sent, wanted)
    assert snn.report.neurons == 4 and snn.about["method"] == "direct 4C3-P2-6C3p1s2-9"


@settings(max_examples=30, deadline=None)
@given(size=some.integers(2, 4), height=some.integers(4, 9), width=some.integers(4, 9))
def test_pooling_is_torchs_whatever_the_border(size: int, height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width)
    means = nn.AvgPool2d(size)(images)
    torch.testing.assert_close(WindowSum(size, size**-2)(images), means)
    torch.testing.assert_close(WindowSum(size)(images), means * size**2)


def test_each_layer_can_have_its_gain_and_biases_their_start() -> None:
    torch.manual_seed(0)
    plain = planned("4C3-7", 3, (1, 5, 5), bias=0.5).ann
    torch.manual_seed(0)
    snn = st.layered("4C3-7", 3, 2, (1, 5, 5), bias=0.5, gain=(1, 2, 3), output="current")
    weighted = [layer for layer in plain if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, factor in zip(weighted, (1, 2, 3), strict=True):
        weights = [p for p in snn.parameters() if p.shape == layer.weight.shape]
        torch.testing.assert_close(weights[0], factor * layer.weight)
        assert layer.bias is not None and bool((layer.bias == 0.5).all())
    assert snn.report.neurons == 2  # classes answer with currents


def test_synapses_delays_recurrence_and_frames_are_put_in() -> None:
    resting = st.RefractoryNeuron()
    snn = st.layered(
        "12-R8", 3, 5, (1, 2, 2), neuron=resting, synapses=st.Synapses(tau=2.0), grid=(2, 2, 2),
        delays=st.Delays(per="layer"), frames=True, raw_pixels=True,
    )  # fmt: skip
    kinds = [type(neuron) for _, neuron in snn.neurons()]
    assert [kind is Recurrent for kind in kinds] == [False, True, False]
    assert sum(isinstance(unit, Synapse) for unit in snn.modules()) == 3
    assert any(isinstance(unit, st.Delay) for unit in snn.modules())
    assert snn.input_shape == (5, 1, 2, 2) and snn.pretrained_cfg["mean"] == [0.0]
    wired = next(unit for unit in snn.modules() if isinstance(unit, Recurrent))
    everywhere = st.layered("12-R8", 3, 5, (1, 2, 2), neuron=resting, synapses=st.Synapses())
    full = next(unit for unit in everywhere.modules() if isinstance(unit, Recurrent))
    assert int(wired.weights().count_nonzero()) < int(full.weights().count_nonzero()) == 8 * 7


def test_weights_within_a_layer_have_a_gain_of_their_own() -> None:
    found = []
    for gain in (None, 0.25):
        torch.manual_seed(0)
        snn = st.layered("6-R8", 3, 5, (1, 2, 2), neuron=st.RefractoryNeuron(), own_gain=gain)
        (layer,) = (unit for unit in snn.modules() if isinstance(unit, Recurrent))
        found.append((layer.weight.detach(), snn.net.get_parameter("1.weight").detach()))
    (first, before), (smaller, same) = found
    torch.testing.assert_close(smaller, 0.25 * first)
    assert torch.equal(before, same)


def test_neurons_of_one_spike_make_a_network_of_times() -> None:
    torch.manual_seed(0)
    snn = st.layered("4C3-P2-9", 3, 32, (1, 8, 8), neuron=st.FirstSpikeNeuron(binary=True))
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 9, bias=False), nn.Linear(9, 3, bias=False),
    ]  # fmt: skip
    other, images = st.single_spike(layers, (1, 8, 8), binary=True), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(snn.unroll(images), other.unroll(images))


ONE_SPIKE = st.FirstSpikeNeuron()


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("4C3-X2", {}, "'X2' in '4C3-X2' is no layer"),
        ("4C3--9", {}, "'' in '4C3--9' is no layer"),
        ("4C9", {}, "'4C9' does not fit on a map of 8 x 8"),
        ("P9", {}, "'P9' does not fit"),
        ("P1", {}, "pools nothing"),
        ("4C0", {}, "has a size of 0"),
        ("0C3", {}, "has a size of 0"),
        ("0", {}, "without neurons"),
        ("9-4C3", {}, "'4C3' needs a map"),
        ("9-P2", {}, "'P2' needs a map"),
        ("9", {"pool": "median"}, "pool is one of mean, sum, max"),
        ("9", {"gain": (1.0,)}, "for 2 layers with weights"),
        ("9", {"gain": float("nan")}, "must be finite numbers"),
        ("9", {"gain": 0.0}, "other than 0"),
        ("9", {"bias": float("nan")}, "bias must be a number"),
        ("9", {"synapses": 4.0}, "give Synapses"),
        ("9", {"delays": 4}, "give Delays"),
        ("9", {"neuron": st.SRMNeuron}, "give one such as LeakyNeuron"),
        ("9", {"output": "spike"}, "output is spikes or current"),
        ("9", {"grid": (3, 3, 1)}, "grid: 9 has no recurrent layer"),
        ("9", {"own_gain": 0.5}, "own_gain: 9 has no recurrent layer"),
        (
            "R9",
            {"neuron": st.RefractoryNeuron(), "own_gain": -1.0},
            "own_gain must be a number above 0",
        ),
        ("R9", {}, "RefractoryNeuron"),
        ("9", {"neuron": ONE_SPIKE}, "give steps=32, or FirstSpikeNeuron.horizon=4."),
        ("9", {"neuron": ONE_SPIKE, "frames": True}, "frames: neurons that fire once"),
        ("9", {"neuron": ONE_SPIKE, "own_gain": 0.5}, "own_gain: neurons that fire once"),
        ("9", {"neuron": ONE_SPIKE, "bias": 0.0}, "bias: neurons that fire once"),
        ("P2-9", {"neuron": ONE_SPIKE, "pool": "mean"}, "pool='mean'"),
        ("R9", {"neuron": ONE_SPIKE}, "R in front of a layer"),
    ],
)
def test_what_is_no_network_is_refused_in_words(text: str, how: Any, said: str) -> None:
    with pytest.raises(st.SpiketuneError, match=said):
        st.layered(text, 3, 4, (1, 8, 8), **how)


def test_names_of_networks_are_not_layers() -> None:
    assert not any(is_layered(name) for name in ("resnet18", "digits_resnet", "P", "C5", "32C", ""))
