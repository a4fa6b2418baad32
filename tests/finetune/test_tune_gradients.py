"""The surrogate's gradient against published recursions and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from tuning_networks import spiking

from spiketune.finetune import Batch, Criterion, SurrogateBPTT, Task
from spiketune.finetune.rules import prepare
from spiketune.snn import (
    LIF,
    ATan,
    Firing,
    HardReset,
    Sigmoid,
    SoftReset,
    SpikingNetwork,
    State,
    Surrogate,
    lif_step,
    over_time,
)

Build = Callable[..., SpikingNetwork]
Reset = SoftReset | HardReset
CURRENT = [0.6, 0.7, 0.2, 0.9]
UPSTREAM = [0.1, -0.2, 0.3, 0.05]
GOLDEN = {
    True: [0.00591429898, -0.01926565381, 0.03879677997, 0.03055728896],
    False: [-0.00962411491, -0.05647822529, 0.03836500043, 0.03055728896],
}


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_over_time_meets_the_temporal_surrogate_recursion(detach: bool) -> None:
    # T-TS-2 of training-rules.md: LIF tau_m=5, synapse tau_s=2, sigmoid width 0.2, hard reset.
    current = torch.tensor(CURRENT, dtype=torch.float64, requires_grad=True)
    one = torch.tensor(1.0, dtype=torch.float64)
    firing = Firing(reset=HardReset(), strict=True, surrogate=Sigmoid(alpha=5), detach_reset=detach)
    spikes, _ = over_time(
        lambda c, state: lif_step(c, state, one, 0.8 * one, firing), current, State(0 * one)
    )
    filtered, loss = 0 * one, 0 * one
    for spike, upstream in zip(spikes, UPSTREAM, strict=True):
        filtered = 0.5 * filtered + spike / 2
        loss = loss + upstream * filtered
    (gradient,) = torch.autograd.grad(loss, current)
    torch.testing.assert_close(gradient, gradient.new_tensor(GOLDEN[detach]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", [SoftReset(), HardReset(), HardReset(to=0.1)], ids=str)
def test_gradients_are_those_of_the_written_equations(reset: Reset, detach: bool) -> None:
    drawn = np.random.default_rng(0)
    current, upstream = drawn.normal(0.4, 0.5, (6, 20, 3)), drawn.normal(size=(6, 20, 3))
    theta, leak, phi, alpha = np.array([0.4, 1.0, 2.5]), 0.8, 0.3, 4.0
    soft, to = reset == SoftReset(), getattr(reset, "to", 0.0)
    # Forward, and h = α σ (1 - σ) of u/θ - 1.
    membrane, charged, spikes = phi * theta + np.zeros((20, 3)), [], []
    for now in current:
        charged.append(u := leak * membrane + now)
        spikes.append(s := (u >= theta).astype(float))
        membrane = u - theta * s if soft else np.where(s, to, u)
    logistic = 1 / (1 + np.exp(-alpha * (np.array(charged) / theta - 1)))
    slopes = alpha * logistic * (1 - logistic)
    # Backward, as the first lines of surrogate_bptt say.
    delta, later = np.zeros_like(current), np.zeros((20, 3))
    of_threshold = np.zeros(3)
    for t in reversed(range(6)):
        u, s, h, g = charged[t], spikes[t], slopes[t], upstream[t]
        r = 1.0 if soft else 1 - s
        full = h if soft else h * (u - to) / theta
        delta[t] = h * g + leak * (r - (0 if detach else full)) * later
        each = s * g - soft * s * leak * later - u / theta * (delta[t] - r * leak * later)
        of_threshold += each.sum(0)
        later = delta[t]
    of_threshold += (phi * leak * delta[0]).sum(0)

    firing = Firing(reset=reset, surrogate=Sigmoid(alpha=alpha), detach_reset=detach)
    neuron = LIF(torch.tensor(theta), leak=leak, initial=phi, firing=firing)
    neuron.threshold.requires_grad_()
    entering = torch.tensor(current, requires_grad=True)
    sent, _ = neuron(entering)
    sent.backward(torch.tensor(upstream))
    np.testing.assert_array_equal(sent.detach().numpy(), np.array(spikes) * theta)
    assert 0.1 < np.mean(spikes) < 0.9
    for found, expected in ((entering.grad, delta), (neuron.threshold.grad, of_threshold)):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("surrogate", "primitive"),
    [
        (Sigmoid(alpha=3.0), lambda x: torch.sigmoid(3.0 * x)),
        (ATan(alpha=2.0), lambda x: torch.atan(torch.pi * x) / torch.pi),
    ],
)
def test_weight_gradient_is_that_of_the_smooth_primitive(
    surrogate: Surrogate, primitive: Callable[[Tensor], Tensor]
) -> None:
    # One hidden layer, one step, a loss linear in the spikes: there both agree exactly.
    torch.manual_seed(0)
    ann = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    ).double()
    images, weights = torch.rand(6, 1, 2, 2).double(), torch.randn(6, 3).double()
    snn = spiking(ann, images)
    rule, task = SurrogateBPTT(surrogate=surrogate), Task(steps=1, criterion=_linear(weights))
    prepare(snn, rule, task)(Batch(images, torch.zeros(6)))
    weight = snn.net.get_parameter("1.weight")
    found = weight.grad
    assert found is not None
    (_, neuron), *_ = snn.neurons()

    @torch.no_grad()
    def smooth(value: Tensor) -> Tensor:
        current = images.flatten(1) @ value.T + ann[1].bias
        distance = (current + 0.5 * neuron.threshold) / neuron.threshold - 1
        return ((neuron.threshold * primitive(distance)) @ ann[3].weight.T * weights).sum()

    step = 1e-6
    for row, column in [(0, 0), (2, 3), (4, 1)]:
        change = torch.zeros_like(weight)
        change[row, column] = step
        expected = (smooth(weight + change) - smooth(weight - change)) / (2 * step)
        torch.testing.assert_close(found[row, column], expected, rtol=1e-6, atol=1e-9)


def _linear(weights: Tensor) -> Criterion:
    return lambda outputs, batch: (outputs.mean(0) * weights).sum()


@pytest.mark.parametrize("kind", ["if", "lif", "signed"])
def test_the_rule_changes_no_answer(build: Build, kind: str, data: tuple[Tensor, Tensor]) -> None:
    snn = build(kind)
    before = snn(data[0])
    prepare(snn, SurrogateBPTT(surrogate=ATan()), Task(steps=4, criterion=lambda a, b: a.sum()))
    assert torch.equal(snn(data[0]), before)
    assert {neuron.firing.surrogate for _, neuron in snn.neurons()} == {ATan()}


def test_settings_reach_the_neurons(build: Build) -> None:
    snn = build()
    task = Task(steps=4, criterion=lambda outputs, batch: outputs.sum())
    prepare(snn, SurrogateBPTT(detach_reset=False, train_thresholds=False), task)
    for _, neuron in snn.neurons():
        assert neuron.firing == Firing(surrogate=Sigmoid(), detach_reset=False)
        assert not neuron.threshold.requires_grad
    prepare(snn, SurrogateBPTT(), task)
    assert all(neuron.threshold.requires_grad for _, neuron in snn.neurons())


def test_every_parameter_gets_a_gradient(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build("signed")
    task = Task(steps=4, criterion=lambda outputs, batch: outputs.square().sum())
    prepare(snn, SurrogateBPTT(), task)(Batch(*data))
    for name, parameter in snn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
