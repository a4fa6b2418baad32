"""STDB against NumPy recursions over spike times, the notes' trace and the paper's formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from tuning_networks import spiking

from spiketune.finetune import STDB, Batch, Exponential, Task
from spiketune.finetune.rules import prepare
from spiketune.finetune.stdb import timed
from spiketune.snn import (
    IF,
    LIF,
    Firing,
    HardReset,
    Linear,
    Neuron,
    SoftReset,
    State,
)

Array = NDArray[np.float64]
Slope = Callable[[Array, Array], Array]  # of the gap and of u/θ

RESETS = [SoftReset(), HardReset(), HardReset(to=0.1)]
SLOPES: list[tuple[Exponential | Linear, Slope]] = [
    (Exponential(), lambda gap, _: 0.3 * np.exp(-0.01 * gap)),
    (
        Exponential(alpha=0.7, beta=0.2, silence=3, cutoff=4),
        lambda gap, _: 0.7 * np.exp(-0.2 * gap) * (gap <= 4),
    ),
    (Linear(), lambda _, relative: 0.3 * np.maximum(0, 1 - abs(relative - 1))),
]
each_slope = pytest.mark.parametrize(("slope", "formula"), SLOPES, ids=[repr(s) for s, _ in SLOPES])


def recursion(
    current: Array, upstream: Array, neuron: Neuron, formula: Slope, silence: int
) -> tuple[Array, Array]:
    """Return spikes and the gradient at the current, from the times of the spikes."""
    theta = neuron.threshold.detach().numpy()
    leak = neuron.leak.item() if isinstance(neuron, LIF) else 1.0
    reset = neuron.firing.reset
    membrane = neuron.initial.numpy() * theta + np.zeros(current.shape[1:])
    last = np.full(current.shape[1:], -silence)
    spikes, slopes = np.zeros_like(current), np.zeros_like(current)
    for t, now in enumerate(current):
        potential = leak * membrane + now
        spikes[t] = potential >= theta
        slopes[t] = formula(t - last, potential / theta)
        last = np.where(spikes[t], t, last)
        soft = potential - theta * spikes[t]
        hard = isinstance(reset, HardReset)
        membrane = (
            np.where(spikes[t], reset.to, potential) if isinstance(reset, HardReset) else soft
        )
    gradient = np.zeros((len(current) + 1, *current.shape[1:]))
    for t in reversed(range(len(current))):
        passed = 1 - spikes[t] if hard else 1.0
        gradient[t] = slopes[t] * upstream[t] + passed * leak * gradient[t + 1]
    return theta * spikes, gradient[:-1]


def silence_of(slope: Exponential | Linear) -> int:
    return slope.silence if isinstance(slope, Exponential) else 0


def trained_by(neuron: Neuron, slope: Exponential | Linear) -> Neuron:
    """Set what the rule sets in each neuron of a network."""
    if isinstance(slope, Exponential):
        neuron.through = partial(timed, slope)
    else:
        neuron.firing = Firing(reset=neuron.firing.reset, surrogate=slope)
    return neuron


def neurons(reset: SoftReset | HardReset) -> list[Neuron]:
    layer, channel = torch.tensor(0.8).double(), torch.tensor([0.5, 0.9, 2.0]).double().view(3, 1)
    each, firing = torch.linspace(0.3, 1.5, 12).double().view(3, 4), Firing(reset=reset)
    return [
        IF(layer, firing=firing),
        IF(channel, initial=0.5, firing=firing),
        LIF(layer, leak=0.8, initial=0.25, firing=firing),
        LIF(each, leak=0.95, firing=firing),
    ]


@pytest.mark.parametrize("reset", RESETS, ids=repr)
@each_slope
def test_gradient_at_the_current_meets_the_recursion(
    slope: Exponential | Linear, formula: Slope, reset: SoftReset | HardReset
) -> None:
    torch.manual_seed(0)
    for neuron in neurons(reset):
        plain = deepcopy(neuron)
        current = (0.9 * torch.randn(12, 2, 3, 4) + 0.3).double().requires_grad_()
        upstream = torch.randn(12, 2, 3, 4).double()
        spikes, state = trained_by(neuron, slope)(current)
        spikes.backward(upstream)
        sent, expected = recursion(
            current.detach().numpy(), upstream.numpy(), plain, formula, silence_of(slope)
        )
        assert 0.1 < (sent > 0).mean() < 0.9
        np.testing.assert_array_equal(spikes.detach(), sent)
        assert current.grad is not None
        np.testing.assert_allclose(current.grad, expected, rtol=1e-10, atol=1e-14)
        assert torch.equal(state.membrane, plain(current.detach())[1].membrane)


@each_slope
def test_weight_gradient_of_a_network_meets_the_recursion(
    slope: Exponential | Linear, formula: Slope
) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)]
    ann = torch.nn.Sequential(torch.nn.Flatten(), *layers).double()
    images, weights = torch.rand(6, 1, 2, 2).double(), torch.randn(6, 3).double()
    snn = spiking(ann, images)
    task = Task(steps=7, criterion=lambda outputs, _: (outputs.sum(0) * weights).sum())
    outcome = prepare(snn, STDB(slope=slope, leak=0.9), task)(Batch(images, torch.zeros(6)))
    ((_, neuron),) = snn.neurons()
    assert isinstance(neuron, LIF) and neuron.leak.item() == 0.9
    with torch.no_grad():
        current = ann[1](images.flatten(1)).expand(7, 6, 5).numpy()
        upstream = (weights @ ann[3].weight).expand(7, 6, 5).numpy()
        sent, delta = recursion(current, upstream, neuron, formula, silence_of(slope))
        answers = (torch.from_numpy(sent) @ ann[3].weight.T + ann[3].bias).mean(0)
    grads = {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}
    assert set(grads) == {"1.weight", "1.bias", "3.weight", "3.bias"}  # no threshold, no leak
    expected = np.einsum("tbo,bi->oi", delta, images.flatten(1).numpy())
    np.testing.assert_allclose(grads["1.weight"], expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(grads["1.bias"], delta.sum((0, 1)), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(outcome.answers, answers)


@dataclass(frozen=True)
class AfterTheLeak:
    """``u[t+1] = λ u[t] - θ s[t] + c[t+1]``, the paper's order, as a reset before the leak."""

    leak: float

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Tensor) -> Tensor:
        return membrane - threshold * spikes / self.leak


def test_golden_trace_of_the_paper() -> None:
    # T-HY-1 of training-rules.md. The program counts a spike one step after its membrane.
    membranes = [0.7, 1.33, 0.897, 1.5073, 1.0566, 0.6509, 1.2858, 0.8572]
    program, gaps = [0, 0, 1, 0, 1, 1, 0, 1], [1001, 2, 1, 2]
    firing = Firing(reset=AfterTheLeak(0.9), strict=True)  # type: ignore[arg-type]
    neuron = LIF(torch.tensor(1.0).double(), leak=0.9, firing=firing)
    neuron.through = partial(timed, Exponential())
    current = torch.full((8, 1), 0.7).double().requires_grad_()
    state: State | None = None
    found, spikes = [], []
    for t in range(8):  # step by step, the state handed on: as one call, see below
        sent, state = neuron(current[t : t + 1], state)
        spikes.append(sent.flatten())
        found.append(state.membrane.item() + sent.item() / 0.9)
    np.testing.assert_allclose(found, membranes, atol=5e-5)
    assert [0, *torch.cat(spikes[:-1]).tolist()] == program
    fired = [t for t in range(8) if spikes[t].item()]
    slopes = [torch.autograd.grad(spikes[t], current, retain_graph=True)[0][t] for t in fired]
    np.testing.assert_allclose(slopes, [[0.3 * math.exp(-0.01 * gap)] for gap in gaps], rtol=1e-12)


def test_without_leak_the_programs_order_is_one_step_late() -> None:
    current = np.random.default_rng(0).normal(0.4, 0.8, (30, 50))
    membrane, late = np.zeros(50), np.zeros((30, 50))
    for t, now in enumerate(current):
        late[t] = membrane > 1  # decided from the step before, then reset and integrated
        membrane = membrane + now - late[t]
    neuron = IF(torch.tensor(1.0).double(), firing=Firing(strict=True))
    spikes = neuron(torch.from_numpy(current))[0].numpy()
    assert spikes.sum() > 100
    np.testing.assert_array_equal(late[1:], spikes[:-1])


@each_slope
def test_steps_in_parts_are_steps_at_once(slope: Exponential | Linear, formula: Slope) -> None:
    torch.manual_seed(1)
    neuron = trained_by(LIF(torch.tensor(0.7), leak=0.9), slope)
    current = (torch.randn(9, 20) + 0.3).requires_grad_()
    upstream = torch.randn(9, 20)
    whole, after = neuron(current)
    (expected,) = torch.autograd.grad((whole * upstream).sum() + after.membrane.sum(), current)
    first, state = neuron(current[:4])
    second, end = neuron(current[4:], state)
    parts = torch.cat([first, second])
    assert torch.equal(parts, whole) and torch.equal(end.membrane, after.membrane)
    (found,) = torch.autograd.grad((parts * upstream).sum() + end.membrane.sum(), current)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_exponential_stays_above_zero_in_float32() -> None:
    # T-HY-4.
    gaps = torch.arange(1, 2001)
    exact = 0.3 * np.exp(-0.01 * gaps.numpy().astype(np.float64))
    np.testing.assert_allclose(Exponential()(gaps.float()), exact, rtol=3e-6)
    found = Exponential()(torch.tensor([104.0, 999.0]))
    np.testing.assert_allclose(found, [0.106, 1.4e-5], rtol=0.02)


def test_cutoff_is_the_programs_underflow() -> None:
    gaps = np.arange(1, 1200, dtype=np.float32)
    program = np.float32(0.3) * np.exp(-gaps) ** np.float32(0.01)
    found = Exponential(cutoff=103)(torch.from_numpy(gaps)).numpy()
    assert (program[103:] == 0).all() and program[102] > 0
    np.testing.assert_array_equal(found == 0, program == 0)
    np.testing.assert_allclose(found, program, rtol=5e-3)  # its last few are denormal


def test_neurons_that_never_spiked_learn_nothing_with_the_cutoff() -> None:
    current = torch.full((5, 3), 0.1, requires_grad=True)
    for cutoff, smallest in ((None, 1e-5), (103, 0.0)):
        neuron = trained_by(IF(torch.tensor(1.0)), Exponential(cutoff=cutoff))
        (gradient,) = torch.autograd.grad(neuron(current)[0].sum(), current)
        assert gradient.min() >= smallest and gradient.max() <= 10 * smallest
