"""RateTraining against the same network as a plain ANN of ``SoftLIF`` activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.finetune import Batch, RateTraining, Task, Training, TuneError, tune
from spiketune.finetune.rules import prepare
from spiketune.snn import RateLIF, SoftLIF, SpikingNetwork


def layers(act: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), act(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 8), act(),
        nn.Linear(8, 3),
    )  # fmt: skip
    for layer in (net[0], net[4]):
        nn.init.ones_(layer.bias)
    return net


def rates(noise: float = 0.0) -> nn.Sequential:
    return layers(lambda: SoftLIF(noise=noise))


def spiking(**curve: float) -> SpikingNetwork:
    neuron = st.RateNeuron(**curve)
    snn = st.twin(layers(nn.ReLU), 20, (1, 8, 8), neuron=neuron)
    st.add_synapses(snn, 5.0)
    return snn


def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(6, 1, 8, 8, generator=draw)
    return Batch(images, torch.randint(3, (6,), generator=draw))


def entropy(outputs: Tensor, of: Batch) -> Tensor:
    return functional.cross_entropy(outputs.mean(0), of.labels)


@pytest.mark.parametrize("noise", [0.0, 25.0])
def test_its_gradient_is_that_of_the_plain_network(noise: float) -> None:
    ann, snn, given = rates(noise).train(), spiking().train(), batch()
    torch.manual_seed(5)
    answers = ann(given.images)
    loss = functional.cross_entropy(answers, given.labels)
    loss.backward()
    learn = prepare(snn, RateTraining(noise=noise), Task(steps=20, criterion=entropy))
    torch.manual_seed(5)
    out = learn(given)
    assert torch.allclose(out.loss, loss, atol=1e-6)
    assert torch.allclose(out.answers, answers, atol=1e-5)
    learned = {p.shape: p.grad for p in snn.parameters() if p.requires_grad}
    assert len(learned) == 6
    for parameter in ann.parameters():
        gradient = learned[parameter.shape]
        assert gradient is not None and gradient.abs().max() > 0
        assert torch.allclose(gradient, parameter.grad, atol=1e-6)


def test_no_step_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    snn = spiking()
    learn = prepare(snn, RateTraining(), Task(steps=100_000, criterion=entropy))

    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError("a neuron was run")

    monkeypatch.setattr(RateLIF, "forward", refuse)
    assert learn(batch()).loss.isfinite()


def test_rules_that_watch_neurons_see_the_rates() -> None:
    seen: dict[str, Tensor] = {}
    snn = spiking()
    task = Task(steps=20, criterion=entropy, show=lambda name, mean: seen.update({name: mean}))
    prepare(snn, RateTraining(noise=0.0), task)(batch())
    inputs: dict[str, Tensor] = {}
    snn.ann(batch().images, observe=lambda name, current: inputs.update({name: current}))
    assert list(seen) == [name for name, _ in snn.neurons()]
    for name, neuron in snn.neurons():
        assert torch.allclose(seen[name], neuron.ann(inputs[name]), atol=1e-6)


def test_trained_as_rates_it_answers_in_spikes() -> None:
    train, test = (st.load_data("digits", split).tensors for split in ("train", "test"))
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    nn.init.ones_(ann[1].bias)
    snn = st.twin(ann, 100, (1, 8, 8), neuron=st.RateNeuron())
    loader = list(zip(train[0].split(32), train[1].split(32), strict=True))
    training = Training(optimizer="adamw", learning_rate=5e-3, warmup=0.0)
    tune(snn, loader, RateTraining(), steps=100, epochs=6, training=training)
    with torch.no_grad():
        told = [
            (answer(test[0]).argmax(1) == test[1]).float().mean().item()
            for answer in (snn.eval().ann, snn)
        ]
    assert min(told) > 0.9 and abs(told[0] - told[1]) < 0.02


def test_neurons_without_a_curve_are_refused_by_name() -> None:
    snn = st.twin(layers(nn.ReLU), 4, (1, 8, 8), neuron=st.LeakyNeuron())
    name = next(snn.neurons())[0]
    with pytest.raises(TuneError, match=rf"^{name} is a LIF, which has no curve.*RateNeuron\(\)"):
        prepare(snn, RateTraining(), Task(steps=4, criterion=entropy))


def test_the_hard_curve_is_refused() -> None:
    with pytest.raises(TuneError, match=r"infinitely steep.*gamma=0.02"):
        prepare(spiking(gamma=0.0), RateTraining(), Task(steps=4, criterion=entropy))


@pytest.mark.parametrize("noise", [-1.0, math.nan, math.inf])
def test_negative_noise_is_refused(noise: float) -> None:
    with pytest.raises(TuneError, match="noise must be at least 0 Hz"):
        RateTraining(noise=noise)
