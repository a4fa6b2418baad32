"""Networks of exact spike times: coding, decision, files, latency, bad input."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import spike_time_reference as reference
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import PSP, Latency, Race, SpiketuneError, race_of, spike_times_of, timed_layers
from spiketune.snn.single_spike.timed import Scales


def network(
    *, binary: bool = False, scales: Scales = "layer", psp: PSP | None = None
) -> st.SpikingNetwork:
    layers = [
        nn.Conv2d(2, 4, 3, bias=False), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 9, 6, bias=False), nn.Linear(6, 3, bias=False),
    ]  # fmt: skip
    snn = st.single_spike(
        layers, (2, 8, 8), window=6, horizon=12, psp=psp, binary=binary, scales=scales
    )
    st.fit_times(snn, images(20))
    return snn.eval()


def images(count: int, seed: int = 1) -> Tensor:
    x = torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (1.5 * x - 0.5).clamp_min(0)


def test_brightness_becomes_latency() -> None:
    x = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    times = Latency(window=8, horizon=12)(x)
    assert times.flatten().tolist() == [12, 6, 4, 0]  # (I_max - I)/I_max window; black never
    prepared = Latency(window=8, horizon=12, mean=(0.25,), std=(0.5,))((x - 0.25) / 0.5)
    torch.testing.assert_close(prepared, times)


def test_each_channel_is_prepared_by_itself() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    shape = (1, 3, 1, 1)
    given = (x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    found = Latency(mean=mean, std=std)(given)
    torch.testing.assert_close(found, Latency()(x), atol=1e-4, rtol=0)


def test_a_network_is_its_layers_one_after_another() -> None:
    snn, x = network(), images(5)
    first, second, third = timed_layers(snn).values()
    times = torch.where(x > 0, 6 * (1 - x), 12.0)
    conv = first(times)
    pooled = -nn.functional.max_pool2d(-conv, 2)
    expected = third(second(pooled))
    found = spike_times_of(snn, x)
    torch.testing.assert_close(found.output, expected)
    assert list(found.fired) == ["conv1", "linear3", "linear4"]
    torch.testing.assert_close(found.arriving["linear3"].flatten(1), pooled.flatten(1))
    assert bool((expected < 12).any()) and bool((found.fired["conv1"] < 12).any())


def test_the_earliest_class_wins_and_the_largest_membrane_if_none_fires() -> None:
    snn, x = network(), images(64)
    last = timed_layers(snn)["linear4"]
    with torch.no_grad():
        ends = spike_times_of(snn, x).output.min(1).values
        while not bool((ends >= 12).any()):  # until some images leave all silent
            last.weight.mul_(0.95)
            ends = spike_times_of(snn, x).output.min(1).values
        times = spike_times_of(snn, x)
        answers = snn(x)
    fired = times.output < 12
    some, none = fired.any(1), ~fired.any(1)
    assert bool(some.any())
    assert torch.equal(answers[some].argmax(1), times.output[some].argmin(1))
    for place in none.nonzero().flatten().tolist():
        arriving = times.arriving["linear4"][place].flatten().double().numpy()
        reached = reference.membranes(
            arriving, last.weight.detach().double().numpy(), reference.linear(6.0),
            torch.tensor([12.0]).double().numpy(), 12,
        )  # fmt: skip
        assert int(reached[:, 0].argmax()) == int(answers[place].argmax())


@pytest.mark.parametrize("chunk", [1, 5, None])
def test_the_answer_at_a_latency_is_what_has_fired_until_then(chunk: int | None) -> None:
    snn, x = network(), images(16)
    with torch.no_grad():
        curve = snn.unroll(x, 12, chunk=chunk)
        times = spike_times_of(snn, x).output
        short = snn(x, steps=7)
    torch.testing.assert_close(short, curve[6])
    for step in range(1, 12):
        fired = times <= step
        assert torch.equal(curve[step - 1] > 0, fired)
        decided = fired.any(1)
        assert torch.equal(curve[step - 1][decided].argmax(1), times[decided].argmin(1))


def test_beyond_the_horizon_nothing_changes() -> None:
    snn, x = network(), images(4)
    with torch.no_grad():
        curve = snn.unroll(x, 20)
    assert torch.equal(curve[19], curve[11])
    torch.testing.assert_close(curve[11], snn.ann(x))


def test_images_leave_once_a_class_has_fired() -> None:
    snn, x = network(), images(32)
    answers, steps = st.EarlyExit(confidence=1e-5, steps=12)(snn, x)
    with torch.no_grad():
        first = spike_times_of(snn, x).output.min(1).values
        whole = snn(x)
    early = first < 12
    assert torch.equal(steps[early], first[early].ceil().clamp_min(1).long())
    assert torch.equal(answers.argmax(1)[early], whole.argmax(1)[early])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "psp",
    [None, st.RampPSP(tau=3.0), st.TrianglePSP(rise=2.0, fall=8.0), st.StepPSP(),
     st.KnotPSP(points=((0.0, 0.5), (2.0, 1.0)), slope=0.125)],
)  # fmt: skip
def test_a_network_is_kept_in_a_file(psp: PSP | None, binary: bool, tmp_path: Path) -> None:
    snn, x = network(psp=psp, binary=binary), images(6)
    again = st.load(st.save(snn, tmp_path / "one.safetensors"))
    for copied in (again, pickle.loads(pickle.dumps(snn)), copy.deepcopy(snn)):
        with torch.no_grad():
            assert torch.equal(copied(x), snn(x))
        assert copied.steps == 12 and race_of(copied).sharpness == race_of(snn).sharpness
        for one, other in zip(*(timed_layers(n).values() for n in (copied, snn)), strict=True):
            assert (one.psp, one.binary) == (other.psp, other.binary)


@pytest.mark.parametrize("scales", ["layer", "neuron"])
def test_the_size_of_binary_weights_is_a_mean(scales: Scales, tmp_path: Path) -> None:
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    layer = st.snn.TimedConv2d(weight, binary=True, scales=scales)
    sign = torch.where(weight >= 0, 1.0, -1.0)
    mean = weight.abs().mean(() if scales == "layer" else (1, 2, 3), keepdim=True)
    torch.testing.assert_close(layer.used, mean * sign)
    layer.set_weight(-3 * weight)
    torch.testing.assert_close(layer.used, -3 * mean * sign)
    snn, x = network(binary=True, scales=scales), images(4)
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    assert {one.scales for one in timed_layers(again).values()} == {scales}
    assert torch.equal(again(x), snn(x))


def test_binary_weights_are_signs_times_a_scale() -> None:
    snn, x = network(binary=True), images(8)
    for layer in timed_layers(snn).values():
        with torch.no_grad():
            layer.weight.view(-1)[0] = 0.0  # counts as positive
            assert layer.used.abs().unique().numel() == 1
        sign = torch.where(layer.weight >= 0, 1.0, -1.0)
        torch.testing.assert_close(layer.used, layer.scale * sign)
    # The same with bare signs and the threshold divided by the scale.
    bare = copy.deepcopy(snn)
    for layer in timed_layers(bare).values():
        layer.threshold = layer.threshold / layer.scale.item()
        assert layer.log_scale is not None
        layer.log_scale.data.zero_()
    found, expected = (spike_times_of(n, x).output.clamp_max(12) for n in (bare, snn))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scales", ["layer", "neuron"])
def test_binary_weights_pass_gradients_to_the_real_ones_and_to_the_scale(scales: Scales) -> None:
    torch.manual_seed(3)
    layer = st.snn.TimedLinear(
        torch.randn(4, 6).double() + 0.5, horizon=12, binary=True, scales=scales
    )
    plain = st.snn.TimedLinear(layer.used.detach(), horizon=12)
    times = 8 * torch.rand(5, 6, dtype=torch.float64)
    for one in (layer, plain):
        one(times).square().sum().backward()
    assert layer.log_scale is not None and plain.weight.grad is not None
    assert layer.weight.grad is not None and layer.log_scale.grad is not None
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    by_hand = (plain.weight.grad * plain.weight).sum(() if scales == "layer" else 1)
    torch.testing.assert_close(layer.log_scale.grad, by_hand)


def test_black_images_and_silent_neurons_give_finite_answers() -> None:
    snn = network()
    dark = snn(torch.zeros(3, 2, 8, 8))
    assert bool(dark.isfinite().all()) and bool((dark < 1).all())
    for layer in timed_layers(snn).values():
        layer.weight.data.neg_().sub_(0.1)
    assert bool(snn(images(4)).isfinite().all())


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_images_beyond_black_and_white_are_refused(value: float) -> None:
    with pytest.raises(SpiketuneError, match=r"brightness of 0 to 1.*cfg=snn"):
        network()(torch.full((1, 2, 8, 8), value))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SpiketuneError, match="end by the horizon"):
        Latency(window=40, horizon=32)
    with pytest.raises(SpiketuneError, match="sharpness"):
        Race(sharpness=0.0)


def test_other_networks_have_no_spike_times() -> None:
    snn = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 4, (4,))
    assert timed_layers(snn) == {}
    with pytest.raises(SpiketuneError, match="single_spike"):
        spike_times_of(snn, torch.rand(2, 4))


def test_the_negative_spikes_in_channels_of_its_own() -> None:
    images = torch.rand(3, 2, 4, 4)
    plain, both = Latency(window=8.0), Latency(window=8.0, negative=True)
    torch.testing.assert_close(both(images), torch.cat([plain(images), plain(1 - images)], dim=1))
    assert list(both(images[:0]).shape) == [0, 4, 4, 4]
    snn = st.single_spike([nn.Flatten(), nn.Linear(32, 3, bias=False)], (1, 4, 4), negative=True)
    with torch.no_grad():
        assert list(snn(images[:, :1]).shape) == [3, 3]
