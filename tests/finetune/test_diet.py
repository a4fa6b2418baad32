"""DIET against finite differences of a smooth NumPy network with the same trajectory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tuning_networks import freeze_last_layer, spiking

from spiketune.finetune import DIET, Batch, Epoch, Task, Training, TuneError, tune
from spiketune.finetune.leaky import make_leaky
from spiketune.finetune.rules import prepare
from spiketune.snn import IF, LIF, HardReset, Linear, SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
Array = NDArray[np.float64]
STEPS, INITIAL = 6, 0.5


class Layer(NamedTuple):
    """A hidden layer's parameters."""

    weight: Array
    bias: Array
    threshold: Array
    leak: Array


def primitive(x: Array) -> Array:
    """Return the integral of ``0.3 max(0, 1 - |x|)`` from 0 to x."""
    inside = np.clip(x, -1, 1)
    return np.asarray(0.3 * (inside - inside * abs(inside) / 2))


class Smooth:
    """Two layers of leaky neurons whose spikes are ``s0 + S(x) - S(x0)``, ``S' = h``.

    ``s0`` and ``x0`` are spikes and distances of the network itself, so at its own parameters this
    network has its trajectory, and differentiates as the rule says: ``h`` for each spike, nothing
    through the spike in the reset.
    """

    def __init__(self, images: Array, layers: list[Layer], head: Array) -> None:
        self.images, self.head = images, head
        self.fixed: list[tuple[Array, Array]] = []
        self.outputs(layers, hard=True)

    def outputs(self, layers: list[Layer], *, hard: bool = False) -> Array:
        signal = np.repeat(self.images[None], STEPS, 0)
        for number, layer in enumerate(layers):
            current = signal @ layer.weight.T + layer.bias
            membrane = INITIAL * layer.threshold + np.zeros(current.shape[1:])
            distances, sent, spikes = [], [], []
            for t in range(STEPS):
                potential = layer.leak * membrane + current[t]
                distances.append(potential / layer.threshold - 1)
                if hard:
                    spikes.append((distances[t] >= 0) * 1.0)
                    now = spikes[t]
                else:
                    spikes.append(self.fixed[number][0][t])
                    base = primitive(self.fixed[number][1][t])
                    now = spikes[t] + primitive(distances[t]) - base
                sent.append(layer.threshold * now)
                membrane = potential - layer.threshold * spikes[t]
            if hard:
                self.fixed.append((np.stack(spikes), np.stack(distances)))
            signal = np.stack(sent)
        return np.asarray(signal @ self.head.T)

    def loss(self, layers: list[Layer]) -> float:
        return float((self.outputs(layers).mean(0) ** 2).sum())


def network() -> tuple[SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    hidden = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU()]
    ann = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(5, 3, bias=False)).double()
    images = torch.rand(8, 1, 2, 2).double()
    return spiking(ann, images), images


def test_gradients_are_those_of_the_smooth_network() -> None:
    # T-HY-5 of training-rules.md.
    snn, images = network()
    task = Task(steps=STEPS, criterion=lambda outputs, _: outputs.mean(0).square().sum())
    learn = prepare(snn, DIET(), task)
    with torch.no_grad():
        for leak, (_, neuron) in zip((0.9, 0.7), snn.neurons(), strict=True):
            assert isinstance(neuron, LIF)
            neuron.leak.fill_(leak)
    learn(Batch(images, torch.zeros(8)))
    parameters = [
        (snn.net.get_parameter(f"{place}.weight"), snn.net.get_parameter(f"{place}.bias"),
         neuron.threshold, neuron.get_parameter("leak"))
        for place, (_, neuron) in zip((1, 3), snn.neurons(), strict=True)
    ]  # fmt: skip
    layers = [Layer(*(p.detach().numpy().copy() for p in row)) for row in parameters]
    smooth = Smooth(
        images.flatten(1).numpy(), layers, snn.net.get_parameter("5.weight").numpy(force=True)
    )
    np.testing.assert_allclose(smooth.outputs(layers), _outputs(snn, images), atol=1e-12)
    assert all(0.1 < spikes.mean() < 0.9 for spikes, _ in smooth.fixed)
    for number, row in enumerate(parameters):
        for field, parameter in zip(Layer._fields, row, strict=True):
            expected = _differences(smooth, layers, number, field)
            assert parameter.grad is not None
            assert abs(expected).max() > 1e-4
            np.testing.assert_allclose(
                parameter.grad, expected, rtol=1e-5, atol=1e-8, err_msg=f"{field} of layer {number}"
            )


def _outputs(snn: SpikingNetwork, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat(list(snn.outputs(images, STEPS)))


def _differences(smooth: Smooth, layers: list[Layer], number: int, field: str) -> Array:
    value: Array = getattr(layers[number], field)
    found, step = np.zeros_like(value), 1e-6
    for place in np.ndindex(value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[place] += sign * step
            changed = layers[number]._replace(**{field: moved})
            ends.append(smooth.loss([*layers[:number], changed, *layers[number + 1 :]]))
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def test_a_leak_of_one_changes_no_answer(build: Build, data: Data) -> None:
    snn = build()
    before = snn(data[0])
    prepare(snn, DIET(), Task(steps=4, criterion=lambda outputs, _: outputs.sum()))
    for _, neuron in snn.neurons():
        assert isinstance(neuron, LIF)
        assert neuron.leak.shape == () and neuron.leak.item() == 1
        assert neuron.leak.requires_grad and neuron.threshold.requires_grad
        assert neuron.firing.surrogate == Linear() and neuron.firing.detach_reset
    with torch.no_grad():
        assert torch.equal(snn(data[0]), before)


def test_neurons_that_leak_keep_their_leak(build: Build) -> None:
    snn = build("lif")
    prepare(snn, DIET(), Task(steps=4, criterion=lambda outputs, _: outputs.sum()))
    assert all(n.get_parameter("leak").item() == pytest.approx(0.9) for _, n in snn.neurons())


def test_a_leaky_neuron_is_the_same_neuron(build: Build, data: Data) -> None:
    snn = build()
    (node, neuron), *_ = snn.neuron_nodes()
    ceiling = torch.linspace(0.2, 0.9, 4).view(4, 1, 1)
    firing = replace(neuron.firing, strict=True, reset=HardReset(to=0.1))
    kept = IF(neuron.threshold, initial=0.3, floor=-1.0, ceiling=ceiling, firing=firing)
    kept.threshold.requires_grad_()
    snn.net.set_submodule(str(node.target), kept)
    expected = snn.ann(data[0]), snn(data[0])
    make_leaky(snn)
    (_, leaky), *_ = snn.neurons()
    assert isinstance(leaky, LIF) and leaky.threshold.requires_grad
    assert (leaky.floor, leaky.firing, leaky.training) == (-1.0, firing, kept.training)
    assert torch.equal(snn.ann(data[0]), expected[0]) and torch.equal(snn(data[0]), expected[1])


def test_thresholds_and_leaks_train_and_stay_in_range(build: Build, data: Data) -> None:
    snn = build()
    before = [neuron.threshold.clone() for _, neuron in snn.neurons()]
    tune(snn, [data] * 20, DIET(), steps=4, epochs=1, training=Training(learning_rate=0.3))
    for (_, neuron), old in zip(snn.neurons(), before, strict=True):
        assert (neuron.threshold >= 0.0099 * old).all()
        assert not torch.allclose(neuron.threshold, old, rtol=0.05)
        assert 0 < neuron.get_parameter("leak").item() <= 1
    assert any(neuron.get_parameter("leak").item() < 1 for _, neuron in snn.neurons())


def test_hidden_layers_learn(build: Build, data: Data) -> None:
    """Thresholds and leaks by themselves do not get there, and the last layer is frozen."""
    training = Training(learning_rate=3e-2)
    accuracies = []
    for frozen in (False, True):
        snn = build()
        for name in freeze_last_layer(snn):
            snn.net.get_parameter(name).requires_grad_(not frozen)
        history = tune(snn, [data] * 30, DIET(), steps=4, epochs=3, training=training)
        accuracies.append(history.epochs[-1].accuracy)
    assert accuracies[0] > 0.9 and accuracies[1] < 0.3


def test_hard_resets_and_other_neurons_are_refused(build: Build, data: Data) -> None:
    snn = build()
    (_, first), (name, second) = snn.neurons()
    second.firing = replace(second.firing, reset=HardReset())
    with pytest.raises(TuneError, match=f"{name}: DIET trains neurons with a soft reset"):
        tune(snn, [data], DIET(), steps=4, epochs=1)
    assert isinstance(first, IF) and not first.threshold.requires_grad
    with pytest.raises(TuneError, match="DIET trains IF and LIF neurons, not SignedIF"):
        tune(build("signed"), [data], DIET(), steps=4, epochs=1)


def test_a_run_resumes_with_the_neurons_of_the_conversion(
    build: Build, data: Data, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        raise Stop

    def run(path: Path, **more: Any) -> SpikingNetwork:
        snn = build()  # with IF neurons, each time
        with suppress(Stop):
            tune(snn, [data] * 4, DIET(), steps=4, epochs=2, checkpoint=path, **more)
        return snn

    whole = run(tmp_path / "whole.pt")
    run(tmp_path / "parts.pt", on_epoch=stop)
    parts = run(tmp_path / "parts.pt", resume=True)
    assert len(torch.load(tmp_path / "parts.pt", weights_only=True)["history"]["epochs"]) == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name
