from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from convert_networks import around, conv, decibels, images
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import BiasCorrection, PotentialCorrection, WeightCalibration


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)
    ).eval()


def numbers(count: int = 40) -> Tensor:
    return torch.rand(count, 6, dtype=torch.float64)


def simulated_rate(current: np.ndarray, theta: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A soft-reset neuron, written by hand: ``current [T, B, C]``, in units of the current."""
    v, total = np.broadcast_to(start * theta, current.shape[1:]).copy(), 0.0
    for now in current:
        v = v + now
        s = (v >= theta).astype(float)
        v, total = v - theta * s, total + theta * s
    return total / len(current)


def test_bias_correction_of_the_first_layer_is_what_numpy_says() -> None:
    ann, x, steps = net().double(), numbers(), 3
    plain = st.to_snn(ann, x, st.Binary(steps=steps))
    neuron = next(plain.neurons())[1]
    theta, start = neuron.threshold.numpy(), neuron.initial.numpy()
    z = (x @ ann[0].weight.T + ann[0].bias).detach().numpy()
    wanted, shift = np.maximum(z, 0).mean(0), np.zeros(12)
    for _ in range(2):
        current = np.repeat((z + shift)[None], steps, 0)
        shift = shift + wanted - simulated_rate(current, theta, start).mean(0)

    corrected = st.to_snn(
        ann, x, st.Binary(steps=steps, corrections=(BiasCorrection(images=40, rounds=2),))
    )
    found = [p for name, p in corrected.net.named_parameters() if name.endswith("relu_shift")]
    assert np.allclose(found[0].detach().numpy(), shift, atol=1e-12)


def test_bias_correction_of_the_second_layer_sees_the_corrected_first() -> None:
    ann, x, steps = net().double(), numbers(), 4
    method = st.Binary(steps=steps, corrections=(BiasCorrection(images=40, rounds=6),))
    snn = st.to_snn(ann, x, method)
    means: dict[str, Tensor] = {}

    def count(name: str, out: Tensor) -> None:
        means[name] = out.sum(0).mean(0) / steps

    snn.unroll(x, steps, chunk=steps, monitor=count)
    first, second = means.values()
    a = ann[1](ann[0](x))
    before = st.to_snn(ann, x, st.Binary(steps=steps))
    plain: dict[str, Tensor] = {}
    before.unroll(
        x, steps, chunk=steps, monitor=lambda n, out: plain.update({n: out.sum(0).mean(0) / steps})
    )
    b = ann[3](ann[2](a))
    for found, was, wanted in zip((first, second), plain.values(), (a, b), strict=True):
        assert (found - wanted.mean(0)).norm() < 0.9 * (was - wanted.mean(0)).norm()


def test_potential_correction_of_the_first_layer_is_what_numpy_says() -> None:
    ann, x, steps = net().double(), numbers(), 3
    plain = next(st.to_snn(ann, x, st.Binary(steps=steps)).neurons())[1]
    theta, start = plain.threshold.numpy(), plain.initial.numpy()
    z = (x @ ann[0].weight.T + ann[0].bias).detach().numpy()
    rate = simulated_rate(np.repeat(z[None], steps, 0), theta, start)
    wanted = start + steps * (np.maximum(z, 0) - rate).mean(0) / theta

    method = st.Binary(steps=steps, corrections=(PotentialCorrection(images=40),))
    found = next(st.to_snn(ann, x, method).neurons())[1].initial
    assert np.allclose(found.numpy(), wanted, atol=1e-12)


def test_weight_calibration_ends_nearer_to_least_squares() -> None:
    ann, x, steps = net().double(), numbers(), 2
    weight = ann[2].weight.clone()
    plain = st.to_snn(ann, x, st.Ternary(steps=steps))
    method = st.Ternary(steps=steps, corrections=(WeightCalibration(images=40, iterations=200),))
    fitted = st.to_snn(ann, x, method)
    expected = ann(x)
    assert decibels(expected, fitted(x)) > decibels(expected, plain(x)) + 1
    assert torch.equal(ann[2].weight, weight), "the ANN is left as it was"


def test_weight_calibration_leaves_the_exact_first_layer_alone() -> None:
    ann, x = net().double(), numbers()
    method = st.Ternary(steps=2, corrections=(WeightCalibration(images=40, iterations=5),))
    snn = st.to_snn(ann, x, method)
    assert torch.equal(snn.net.get_parameter("0.weight"), ann[0].weight)
    assert not torch.equal(snn.net.get_parameter("2.weight"), ann[2].weight)


@pytest.mark.parametrize(
    "correction", [BiasCorrection(images=8), PotentialCorrection(images=8), WeightCalibration()]
)
def test_corrections_help_at_their_own_budget(correction: st.Correction) -> None:
    ann = around(lambda m, y: torch.relu(m.b(torch.relu(m.a(y)))), a=conv(), b=conv())
    x = images(48)
    plain = st.to_snn(ann, x, st.Binary(steps=3))
    better = st.to_snn(ann, x, st.Binary(steps=3, corrections=(correction,)))
    expected = ann(x)
    assert decibels(expected, better(x, 3)) > decibels(expected, plain(x, 3))


def test_corrected_networks_are_saved_and_loaded(tmp_path: Path) -> None:
    ann = around(lambda m, y: torch.relu(m.a(y)), a=conv())
    method = st.Ternary(steps=4, corrections=(BiasCorrection(), WeightCalibration(iterations=3)))
    snn = st.to_snn(ann, images(), method)
    st.save(snn, tmp_path / "net.safetensors")
    x = images(5)
    assert torch.equal(st.load(tmp_path / "net.safetensors")(x), snn(x))


def test_a_bias_correction_of_differential_coding_acts_once() -> None:
    ann, x = net().double(), numbers()
    method = st.Graded(steps=2, levels=2, spikes_per_step=1, corrections=(BiasCorrection(),))
    snn = st.to_snn(ann, x, method)
    # Far beyond its own budget the shift is a constant error, not one that grows with time.
    curve = snn.unroll(x, 40)
    assert torch.allclose(curve[-1], curve[-2], atol=1e-9)


def test_refusals() -> None:
    with pytest.raises(st.SpiketuneError, match="images must be"):
        BiasCorrection(images=0)
    with pytest.raises(st.SpiketuneError, match="rate must be above zero"):
        WeightCalibration(rate=0.0)
    method = st.Graded(corrections=(PotentialCorrection(),))
    with pytest.raises(st.SpiketuneError, match=r"BiasCorrection\(\)"):
        st.to_snn(net(), torch.rand(9, 6), method)
    with pytest.raises(st.SpiketuneError, match="corrections"):
        st.Ternary(corrections=(BiasCorrection,))  # type: ignore[arg-type]


def wide_ranges() -> nn.Module:
    """A depthwise block whose channels differ in range by a factor of a hundred."""
    ann = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU6(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(),
        nn.Conv2d(6, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        ann[0].weight.mul_(torch.logspace(-1, 1, 6).view(-1, 1, 1, 1))
    return ann


def test_equalising_changes_thresholds_and_not_the_network() -> None:
    ann, x = wide_ranges(), images(32, torch.float64)
    snn = st.to_snn(ann, x, st.Ternary(steps=8, threshold=st.Max(), equalise=True))
    assert torch.allclose(snn.ann(x), ann(x), atol=1e-12)
    first, second, _ = (neuron.threshold.flatten() for _, neuron in snn.neurons())
    for threshold in (first, second):
        active = threshold[threshold > 1e-9]
        assert float(active.max() / active.min()) < 1.01
    assert any(row.found == "ranges" for row in snn.report.rows)


def test_equalised_one_threshold_a_layer_is_as_good_as_one_a_channel() -> None:
    ann, x = wide_ranges(), images(32, torch.float64)
    by_layer = st.Ternary(steps=8, threshold=st.Max(), per="layer", equalise=True)
    by_channel = st.Ternary(steps=8, threshold=st.Max(), per="channel")
    one = st.to_snn(ann, x, by_layer)(x)
    other = st.to_snn(ann, x, by_channel)(x)
    plain = st.to_snn(ann, x, st.Ternary(steps=8, threshold=st.Max(), per="layer"))(x)
    expected = ann(x)
    assert decibels(expected, one) > decibels(expected, plain) + 3
    assert decibels(expected, one) > decibels(expected, other) - 6


class Sharing(nn.Module):
    """Two layers one after the other that share their bias, or their weight too."""

    def __init__(self, weight: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.bias = self.a.bias
        if weight:
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.a(x))).relu()
        return out


@pytest.mark.parametrize("weight", [False, True])
def test_parameters_that_two_layers_share_are_left_alone(weight: bool) -> None:
    torch.manual_seed(0)
    ann, x = Sharing(weight), torch.rand(32, 6)
    expected = ann(x)
    equalised = st.to_snn(ann, x, st.Ternary(equalise=True))
    assert not any(row.found == "ranges" for row in equalised.report.rows)
    assert torch.allclose(equalised.ann(x), expected, atol=1e-5)
    fit = (WeightCalibration(images=32, iterations=20),)
    fitted = st.to_snn(ann, x, st.Ternary(corrections=fit))
    assert torch.allclose(fitted.ann(x), expected, atol=1e-5)


def test_the_doctor_compares_with_the_network_itself_after_corrections() -> None:
    ann, x = net(), numbers().float()
    method = st.Ternary(steps=2, corrections=(WeightCalibration(images=40, iterations=200),))
    snn = st.to_snn(ann, x, method)
    own = 100 * float((snn(x).argmax(1) == ann(x).argmax(1)).float().mean())
    assert st.doctor(ann, x, method).agreement == pytest.approx(own)


def test_equalising_leaves_shared_and_branching_layers_alone() -> None:
    ann = around(lambda m, y: m.a(y) + torch.relu(m.a(y)), a=conv())
    x = images()
    snn = st.to_snn(ann, x, st.Ternary(equalise=True))
    assert not any(row.found == "ranges" for row in snn.report.rows)
    assert torch.allclose(snn.ann(x), ann(x), atol=1e-5)
