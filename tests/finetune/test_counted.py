"""HM2-BP and ST-RSBP as rules: whole networks against loops over pairs, refusals, bad input."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_networks import (
    LOSS,
    PERIOD,
    STEPS,
    TAU_S,
    convolutional,
    gradients,
    linear,
    matrix,
    network,
    own_weights,
    pairs,
    reference,
    seen,
)
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import HM2BP, STRSBP, Rule, TuneError, WeightGrowth
from spiketune.finetune.counted import Counting, counted
from spiketune.finetune.spike_trains import pre_trace, reach, relative_slopes
from spiketune.finetune.weight_growth import growth_penalty
from spiketune.snn import Firing, HardReset, Recurrent, Refractory, neuron_path

LABELS = torch.tensor([0, 2, 1, 0])


def images(*shape: int, count: int = 4) -> Tensor:
    return 2 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)).double()


def held(x: Tensor) -> list[np.ndarray]:
    return [np.repeat(image.flatten()[None].numpy(), STEPS, 0) for image in x]


@pytest.mark.parametrize("factors", [False, True], ids=["HM2BP", "STRSBP"])
@pytest.mark.parametrize("saturated", ["zero", "full"])
def test_a_dense_network_learns_what_loops_over_pairs_say(saturated: Any, factors: bool) -> None:
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,)), images(5)
    found = gradients(snn, (STRSBP if factors else HM2BP)(saturated=saturated), x, LABELS)
    names = ["0.weight", "2.weight", "4.weight"]
    weights = [snn.net.get_parameter(name).detach().numpy() for name in names]
    expected = [np.zeros_like(weight) for weight in weights]
    layers = seen(snn, x)
    for inputs, trains, label in zip(held(x), layers, LABELS.tolist(), strict=True):
        answer = reference(
            inputs, trains, weights, [None] * 3, label, factors=factors, saturated=saturated
        )
        for total, part in zip(expected, answer.matrices, strict=True):
            total += part / len(x)
    counts = np.concatenate([train.count for trains in layers for train in trains])
    assert (counts == 0).any() and (counts > 2).any()
    assert (counts >= STEPS / (PERIOD + 1)).any()
    for name, total in zip(names, expected, strict=True):
        assert np.abs(total).max() > 0.01
        np.testing.assert_allclose(found[name].numpy(), total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factors", [False, True], ids=["HM2BP", "STRSBP"])
def test_convolutions_and_pooling_do_too(factors: bool) -> None:
    layers = convolutional()
    snn, x = network(*layers, shape=(1, 6, 6)), images(1, 6, 6)
    found = gradients(snn, STRSBP() if factors else HM2BP(), x, LABELS)
    parts = [(layers[:1], (1, 6, 6)), (layers[2:4], (2, 4, 4)), (layers[5:7], (3, 1, 1))]
    nn.Sequential(*layers).double().zero_grad()
    dense = [matrix(part, shape) for part, shape in parts]
    total = torch.zeros(()).double()
    for inputs, trains, label in zip(held(x), seen(snn, x), LABELS.tolist(), strict=True):
        weights = [one.detach().numpy() for one in dense]
        answer = reference(inputs, trains, weights, [None] * 3, label, factors=factors)
        for one, asked in zip(dense, answer.matrices, strict=True):
            total = total + (one * torch.tensor(asked)).sum() / len(x)
    total.backward()
    for place in (0, 3, 6):
        expected = layers[place].weight.grad
        assert isinstance(expected, Tensor) and expected.abs().max() > 0.01
        torch.testing.assert_close(found[f"{place}.weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["full", "reference"])
@pytest.mark.parametrize("saturated", ["zero", "full"])
def test_a_recurrent_network_learns_what_loops_over_pairs_say(
    saturated: Any, gradient: Any
) -> None:
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=True), images(5)
    rule = STRSBP(weight_gradient=gradient, saturated=saturated)
    found = gradients(snn, rule, x, LABELS)
    names = ["0.weight", "2.weight", "4.weight"]
    weights = [snn.net.get_parameter(name).detach().numpy() for name in names]
    total = {name: np.zeros_like(one) for name, one in zip(names, weights, strict=True)}
    own = np.zeros((4, 4))
    for inputs, trains, label in zip(held(x), seen(snn, x), LABELS.tolist(), strict=True):
        answer = reference(
            inputs, trains, weights, own_weights(snn), label, factors=True,
            whole=gradient == "full", saturated=saturated,
        )  # fmt: skip
        own += answer.own[0] / len(x)
        for name, part in zip(names, answer.matrices, strict=True):
            total[name] += part / len(x)
    for name, one in total.items():
        np.testing.assert_allclose(found[name].numpy(), one, rtol=1e-5, atol=1e-6)
    np.fill_diagonal(own, 0.0)
    assert np.abs(own).max() > 0.01
    (layer,) = (name for name in found if name.endswith("relu.weight"))
    np.testing.assert_allclose(found[layer].numpy(), own, rtol=1e-5, atol=1e-6)


def test_solving_for_those_that_fired_is_solving_for_all() -> None:
    make = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6, generator=make).double()
    layer = Recurrent(torch.tensor(0.7).double(), weight=weight, tau=TAU_S, leak=0.8, period=1)
    current = torch.rand(12, 3, 6, generator=make).double() - 0.2
    current[:, 0, :4] = current[:, 1] = -9.0  # few fire in one image, none in another
    grad = torch.randn(12, 3, 6, generator=make).double()
    x, how = current.requires_grad_(), Counting(silent="mean", revive=0.3, factor="counts")
    sent, _ = counted(how, layer, x, layer.start(x))
    sent.backward(grad)
    spikes = (sent.detach() > 0).double()
    count, fired = spikes.sum(0), spikes.any(0)
    assert 0 < fired.sum() < 18 and not fired[1].any()
    delta = torch.where(fired, (spikes * grad).sum(0) / count.clamp_min(1), grad.mean(0))
    omega = 1 - count * relative_slopes(12, 0.8, 1).double()[count.long()]
    reached = reach(spikes, 0.8, 1) + 0.3 * ~fired
    trace = pre_trace(0.7 * spikes, TAU_S) / TAU_S
    e, own = torch.einsum("tbi,tbj->bij", reached, trace), layer.weights().detach()
    system = torch.diag_embed(omega) - own * e / (0.7 * count.clamp_min(1)).unsqueeze(1)
    y = torch.linalg.solve(system.mT, delta.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(x.grad, y * reached)
    expected = torch.einsum("bi,bij->ij", y, e) * (1 - torch.eye(6))
    torch.testing.assert_close(layer.weight.grad, expected.double())


def test_a_layer_that_hears_nothing_of_itself_is_a_feed_forward_one() -> None:
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=True), images(5)
    for neuron in snn.modules():
        if isinstance(neuron, Recurrent):
            neuron.weight.data.zero_()
    plain = gradients(network(*linear(5, 6, 4, 3), shape=(5,)), STRSBP(), x, LABELS)
    found = gradients(snn, STRSBP(), x, LABELS)
    for name, one in plain.items():
        torch.testing.assert_close(found[name], one)


@pytest.mark.parametrize("rule", [HM2BP(), STRSBP(), STRSBP(factor="currents")], ids=str)
def test_a_batch_is_its_images_one_by_one(rule: Rule) -> None:
    recurrent = isinstance(rule, STRSBP)
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=recurrent), images(5)
    whole = gradients(snn, rule, x, LABELS)
    singles = [gradients(snn, rule, x[b : b + 1], LABELS[b : b + 1]) for b in range(4)]
    for name, one in whole.items():
        mean = torch.stack([single[name] for single in singles]).mean(0)
        torch.testing.assert_close(one, mean, rtol=1e-9, atol=1e-9)


def test_kernels_and_loops_find_the_same() -> None:
    snn, x = network(*convolutional(), shape=(1, 6, 6)).float(), images(1, 6, 6).float()
    found = {}
    for way in ("eager", "compiled"):
        with neuron_path(way):
            found[way] = gradients(snn, HM2BP(), x, LABELS)
    for name, one in found["eager"].items():
        torch.testing.assert_close(found["compiled"][name], one, rtol=1e-5, atol=1e-6)


def test_spikes_stay_the_neurons_own() -> None:
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=True), images(5)
    plain = torch.cat(list(snn.outputs(x, STEPS))).detach()
    gradients(snn, STRSBP(), x, LABELS)
    assert plain.any() and torch.equal(torch.cat(list(snn.outputs(x, STEPS))).detach(), plain)


def test_currents_say_of_the_factor_what_efficacies_sum_up_to() -> None:
    neuron = Refractory(torch.tensor(0.7).double(), leak=0.8, period=1)
    make = torch.Generator().manual_seed(0)
    current = (0.3 * torch.rand(20, 1, 6, generator=make)).double().requires_grad_()
    grads = {}
    for factor in ("counts", "currents"):
        current.grad = None
        how = Counting(factor=factor)  # type: ignore[arg-type]
        sent, _ = counted(how, neuron, current, neuron.start(current))
        sent.sum().backward()
        assert current.grad is not None
        grads[factor] = current.grad.amax(0)[0]  # 1/Ω
    count = (sent.detach() > 0).sum(0)[0]
    slope = relative_slopes(20, 0.8, 1).double()[count]
    potential = (reach(sent.detach(), 0.8, 1) * current.detach()).sum(0)[0] / 0.7
    torch.testing.assert_close(grads["counts"], 1 / (1 - count * slope))
    torch.testing.assert_close(grads["currents"], 1 / (1 - potential * slope))


def test_inhibition_between_outputs_raises_their_credit() -> None:
    snn, x = network(*linear(5, 6, 3), shape=(5,)), images(5)
    plain = gradients(snn, HM2BP(), x, LABELS)["2.weight"]
    found = gradients(snn, HM2BP(lateral=0.5), x, LABELS)["2.weight"]
    trains = seen(snn, x)
    expected = torch.zeros(3, 6).double()
    weights = [snn.net.get_parameter(f"{k}.weight").detach().numpy() for k in (0, 2)]
    for inputs, layers, label in zip(held(x), trains, LABELS.tolist(), strict=True):
        answer = reference(inputs, layers, weights, [None] * 2, label, factors=False)
        last = layers[-1]
        within, count = pairs(last.sent, last), last.count
        for j in range(3):
            around = sum(
                within[j, k] * within[k, j] / (max(count[j], 1) * max(count[k], 1))
                for k in range(3)
                if k != j and count[j] and count[k]
            )
            expected[j] += torch.tensor(answer.matrices[1][j] / (1 - 0.25 * around) / len(x))
    assert (found - plain).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_growth_is_the_penalty_of_the_papers() -> None:
    snn, x = network(*linear(5, 6, 3), shape=(5,)), images(5)
    growth = WeightGrowth(strength=2.0, steepness=0.5, scale=0.8)
    plain = gradients(snn, HM2BP(), x, LABELS)
    found = gradients(snn, HM2BP(growth=growth), x, LABELS)
    for name in ("0.weight", "2.weight"):
        w = snn.net.get_parameter(name).detach() / 0.8
        row = (0.5 * (w.square().mean(1, keepdim=True) - 1)).exp()
        torch.testing.assert_close(found[name] - plain[name], 2.0 * 0.5 * w * row)
    for name in ("strength", "steepness", "scale"):
        for wrong in (0, -1.0, float("nan"), float("inf"), "1"):
            with pytest.raises(TuneError, match=f"{name} must be above 0, not"):
                WeightGrowth(**{name: wrong})  # type: ignore[arg-type]
    assert growth_penalty(snn, growth).isfinite()


@pytest.mark.parametrize("rule", [HM2BP(), STRSBP()], ids=["HM2BP", "STRSBP"])
def test_the_loss_falls_and_a_file_keeps_what_was_learned(rule: Rule, tmp_path: Path) -> None:
    recurrent = isinstance(rule, STRSBP)
    snn = network(*linear(5, 12, 8, 3), shape=(5,), recurrent=recurrent).float()
    x, labels = images(5, count=48).float() / 4, torch.arange(48) % 3
    x[range(48), labels] += 2
    training = st.Training(learning_rate=2e-2, warmup=0.0, loss=LOSS)
    history = st.tune(snn, [(x, labels)], rule, steps=STEPS, epochs=40, training=training)
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].accuracy > 0.6
    st.save(snn, tmp_path / "snn.safetensors")
    assert torch.equal(st.load(tmp_path / "snn.safetensors")(x), snn(x))


@pytest.mark.parametrize(
    "rule", [HM2BP(), HM2BP(silent="mean"), STRSBP(), STRSBP(silent="mean")],
    ids=["HM2BP", "HM2BP mean", "STRSBP", "STRSBP mean"],
)  # fmt: skip
@pytest.mark.parametrize("gain", [0.0, 1e-3, 1e3])
def test_silence_and_din_stop_cleanly_or_train_on(rule: Rule, gain: float) -> None:
    recurrent = isinstance(rule, STRSBP)
    snn = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=recurrent, gain=max(gain, 1e-3))
    x = images(5) * (gain > 0)  # all dark at 0
    data = [(x, LABELS)]
    if rule.silent == "zero" and gain < 1:  # nothing would ever change
        with pytest.raises(TuneError, match=r"_1_relu: none of its 6 neurons fired.*silent='mean'"):
            st.tune(snn, data, rule, steps=STEPS, epochs=3, training=st.Training(loss=LOSS))
        return
    found = gradients(snn, rule, x, LABELS)
    assert all(one.isfinite().all() for one in found.values())
    history = st.tune(snn, data, rule, steps=STEPS, epochs=3, training=st.Training(loss=LOSS))
    assert np.isfinite([epoch.loss for epoch in history.epochs]).all()
    assert all(p.isfinite().all() for p in snn.parameters())


def test_batches_may_be_dark_later() -> None:
    snn, x = network(*linear(5, 6, 3), shape=(5,)).float(), images(5).float()
    data = [(x, LABELS), (torch.zeros_like(x), LABELS)]
    done = st.tune(snn, data, HM2BP(), steps=STEPS, epochs=3, training=st.Training(loss=LOSS))
    assert np.isfinite([epoch.loss for epoch in done.epochs]).all()


def test_inhibition_is_refused_where_no_output_spikes() -> None:
    snn = network(*linear(5, 6, 3)[:-1], shape=(5,))
    assert gradients(snn, HM2BP(), images(5), LABELS)["2.weight"].any()
    with pytest.raises(TuneError, match=r"lateral=0.5 is inhibition between spiking outputs"):
        gradients(snn, HM2BP(lateral=0.5), images(5), LABELS)


@pytest.mark.parametrize("rule", [HM2BP(silent="mean"), STRSBP(silent="mean")], ids=["HM", "ST"])
def test_a_hidden_layer_that_never_fires_comes_to_life(rule: HM2BP) -> None:
    recurrent = isinstance(rule, STRSBP)
    snn = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=recurrent).float()
    x, training = images(5).float(), st.Training(learning_rate=2e-2, warmup=0.0, loss=LOSS)
    snn.net.get_parameter("2.weight").data.mul_(0.05)
    with pytest.raises(TuneError, match="_3_relu: none of its 4 neurons fired"):
        st.tune(deepcopy(snn), [(x, LABELS)], STRSBP(), steps=STEPS, epochs=1, training=training)
    st.tune(snn, [(x, LABELS)], rule, steps=STEPS, epochs=60, training=training)
    assert snn(x).any()


def test_outputs_that_never_fire_come_to_life() -> None:
    snn, x = network(*linear(5, 6, 3), shape=(5,)).float(), images(5).float()
    snn.net.get_parameter("2.weight").data.fill_(-0.01)
    assert not snn(x).any()
    training = st.Training(learning_rate=2e-2, warmup=0.0, loss=LOSS)
    st.tune(snn, [(x, LABELS)], HM2BP(), steps=STEPS, epochs=30, training=training)
    assert snn(x).gather(1, LABELS[:, None]).gt(0).any()


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    snn, x = network(*linear(5, 6, 4, 3), shape=(5,), recurrent=True), images(5)
    with pytest.raises(TuneError, match=r"_3_relu: HM2-BP trains feed-forward.*STRSBP\(\)"):
        gradients(snn, HM2BP(), x, LABELS)
    ann = nn.Sequential(*linear(5, 3))
    plain = st.twin(ann, STEPS, (5,)).double()
    with pytest.raises(TuneError, match="with a hard reset to 0, not IF with SoftReset"):
        gradients(plain, HM2BP(), x, LABELS)
    hard = st.LeakyNeuron(leak=0.9, firing=Firing(reset=HardReset()))
    leaky = st.twin(ann, STEPS, (5,), neuron=hard).double()
    assert gradients(leaky, HM2BP(), x, LABELS)["0.weight"].isfinite().all()
    leaky.drive = 4
    with pytest.raises(TuneError, match="acts for 4 steps only"):
        gradients(leaky, STRSBP(), x, LABELS)
    leaky.drive = None
    (_, neuron), *_ = leaky.neurons()
    neuron.leak.data = torch.rand(3).double()  # type: ignore[union-attr]
    with pytest.raises(TuneError, match="leak each in a way of its own"):
        gradients(leaky, STRSBP(), x, LABELS)
    for name in ("revive", "lateral"):
        for wrong in (-1.0, float("nan"), float("inf"), True, "0.1"):
            with pytest.raises(TuneError, match=f"{name} must be 0 or more, not"):
                HM2BP(**{name: wrong})  # type: ignore[arg-type]
    for wrong in ({"silent": "one"}, {"saturated": True}, {"growth": 3.0}):
        with pytest.raises(TuneError, match="must be"):
            HM2BP(**wrong)  # type: ignore[arg-type]
    for wrong in ({"weight_gradient": "half"}, {"factor": "rates"}):
        with pytest.raises(TuneError, match="must be"):
            STRSBP(**wrong)  # type: ignore[arg-type]
