"""NA by the true change of the loss, against brute force: each spike flipped, each loss taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from neurons_by_hand import Array, spikes_and_potentials
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import NA, Batch, Criterion, Task, TuneError, exact
from spiketune.finetune.losses import Objective
from spiketune.finetune.neighbours import exact_change
from spiketune.finetune.rules import outputs, prepare
from spiketune.snn import Firing, HardReset, Neuron, SoftReset, SpikingNetwork

HARD = Firing(reset=HardReset(), strict=True)
SOFT = Firing(reset=SoftReset())
STEPS, LEAK = 5, 0.8
each_firing = pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
Make = Callable[[SpikingNetwork], Criterion]


def network(firing: Firing = HARD, *, tau: float | None = 2.0) -> SpikingNetwork:
    """Return a network that ends in three neurons."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU())
    neuron = st.LeakyNeuron(leak=LEAK, firing=firing)
    snn = st.twin(ann, STEPS, (8,), neuron=neuron)
    if tau is not None:
        st.add_synapses(snn, tau, output=True)
    for (_, unit), size in zip(snn.neurons(), (6, 3), strict=True):
        unit.threshold.data = torch.linspace(0.2, 0.4, size)
    snn = snn.double()
    for _, unit in snn.neurons():
        unit.get_parameter("leak").data.fill_(LEAK)  # it was rounded
    return snn


def batch(count: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(count, 8, generator=draw, dtype=torch.float64)
    taught = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    return Batch(images, torch.arange(count) % 3, taught)


def quadratic(sent: Tensor, given: Batch) -> Tensor:
    """Return ``½ |a - ā|²``, the mean over images; the mean of a spike is its goal."""
    goal = 0.3 * nn.functional.one_hot(given.labels, 3)
    return (sent - goal).square().sum() / (2 * sent.shape[1])


def of_training(**settings: Any) -> Make:
    return lambda snn: Objective(snn, st.Training(**settings), steps=STEPS)


LOSSES: dict[str, Make] = {
    "quadratic": lambda _: quadratic,
    "cross-entropy": of_training(label_smoothing=0.1),
    "every step": of_training(loss=st.TET()),
    "a teacher's": of_training(distillation=0.5),
}


def learned(
    snn: SpikingNetwork, rule: NA, criterion: Criterion, scale: float = 1.0
) -> list[Tensor]:
    """Learn from a batch and return each layer's current ``[T, B, N]``, with its gradient."""
    currents: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].requires_grad and len(given[0]) == STEPS:
            given[0].retain_grad()
            currents.append(given[0])

    task = Task(steps=STEPS, criterion=criterion, backward=lambda loss: (scale * loss).backward())
    learn = prepare(snn, rule, task)
    handles = [neuron.register_forward_pre_hook(keep) for _, neuron in snn.neurons()]
    learn(batch())
    for handle in handles:
        handle.remove()
    return currents


def filtered(spikes: Array, tau: float | None) -> Array:
    level, found = 0.0, []
    for spike in spikes:
        level = spike if tau is None else (1 - 1 / tau) * level + spike / tau
        found.append(level)
    return np.array(found)


def flips(neuron: Neuron, current: Tensor, tau: float | None) -> dict[tuple[int, int, int], Any]:
    """Return, by step, image and neuron, outputs ``[T]`` after the flip and ``1 - u/θ`` there."""
    found = {}
    for b, n in np.ndindex(*current.shape[1:]):
        theta = float(neuron.threshold[n])
        given = (current[:, b, n].detach().numpy(), 0.0, theta, LEAK, neuron.firing)
        spikes, potentials, _ = spikes_and_potentials(*given)
        for k in range(STEPS):
            others, _, _ = spikes_and_potentials(*given, k)
            distance = 1 - potentials[k] / theta
            found[k, b, n] = (theta * filtered(others, tau), distance, bool(spikes[k]))
    return found


def brute_force(
    snn: SpikingNetwork, current: Tensor, criterion: Criterion, rule: NA, tau: float | None
) -> Tensor:
    """Return the gradient at the last currents: whole batches' losses, one flip after the other."""
    *_, (_, neuron) = snn.neurons()
    with torch.no_grad():
        plain = outputs(snn, batch().images, STEPS)
        before, expected = criterion(plain, batch()), torch.zeros_like(current)
        for (k, b, n), (others, distance, fired) in flips(neuron, current, tau).items():
            sent = plain.clone()
            sent[:, b, n] = torch.tensor(others)
            change = (criterion(sent, batch()) - before) / neuron.threshold[n]
            inverse = min(abs(distance) ** -rule.power, rule.clip)
            expected[k, b, n] = change * (-inverse if fired else inverse)
    return expected


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tau", [None, 2.0])
@each_firing
def test_the_last_neurons_get_true_differences(
    firing: Firing, tau: float | None, loss: str
) -> None:
    snn, rule = network(firing, tau=tau), NA(error="exact", power=3, clip=7.0)
    criterion = LOSSES[loss](snn)
    _, last = learned(snn, rule, criterion)
    expected = brute_force(snn, last, criterion, rule, tau)
    assert (expected != 0).double().mean() > 0.1
    fired = {fired for _, _, fired in flips(list(snn.neurons())[1][1], last, tau).values()}
    assert fired == {True, False}
    torch.testing.assert_close(last.grad, expected, rtol=0, atol=1e-9)


@each_firing
def test_a_quadratic_loss_changes_as_its_formula_says(firing: Firing) -> None:
    # T-NA-3: it is exact_change, and neither e nor g, that the rule divides by the distance.
    snn = network(firing)
    _, last = learned(snn, NA(error="exact", clip=1e6), quadratic)
    _, by_g = learned(network(firing), NA(error="g", clip=1e6), quadratic)
    assert last.grad is not None and by_g.grad is not None
    *_, (_, neuron) = snn.neurons()
    sent = outputs(snn, batch().images, STEPS).detach()
    g = sent - 0.3 * nn.functional.one_hot(batch().labels, 3)
    second = 0.0
    for (k, b, n), (others, distance, _) in flips(neuron, last, 2.0).items():
        change = torch.tensor(others) - sent[:, b, n]
        scale = neuron.threshold[n] * distance * len(batch().images)
        exactly = exact_change(g[:, b, n], change)
        torch.testing.assert_close(last.grad[k, b, n] * scale, exactly)
        torch.testing.assert_close(by_g.grad[k, b, n] * scale, (g[:, b, n] * change).sum())
        second = max(second, float(exactly - (g[:, b, n] * change).sum()))
    assert second > 0.01


def test_layers_before_go_on_with_the_error_e() -> None:
    snn, plain = network(), network()
    _, last = learned(snn, NA(error="exact"), quadratic)
    met: list[Tensor] = []
    prepare(plain, NA(), Task(steps=STEPS, criterion=quadratic))
    _, (_, neuron) = plain.neurons()
    neuron.register_forward_pre_hook(lambda _, given: met.append(given[0]))
    outputs(plain, batch().images, STEPS)
    assert torch.equal(met[0], last)
    met[0].backward(last.grad)
    for name, parameter in snn.net.named_parameters():
        expected = plain.net.get_parameter(name).grad
        assert (expected is None) == ("threshold" in name or "leak" in name)
        if expected is not None:
            assert bool(expected.any())
            torch.testing.assert_close(parameter.grad, expected)


def test_the_trainer_may_scale_the_loss() -> None:
    plain = learned(network(), NA(error="exact"), quadratic)
    scaled = learned(network(), NA(error="exact"), quadratic, scale=4.0)
    for one, other in zip(plain, scaled, strict=True):
        assert one.grad is not None and bool(one.grad.any())
        torch.testing.assert_close(other.grad, 4 * one.grad)


def test_layers_are_equalised_to_the_last() -> None:
    plain = learned(network(), NA(error="exact"), quadratic)
    equal = learned(network(), NA(error="exact", equalise=True), quadratic)
    (first, last), (evened, same) = ([one.grad for one in each] for each in (plain, equal))
    assert first is not None and last is not None
    goal = last.abs().mean().round(decimals=3)
    assert goal > 0
    factor = 1.2 * torch.log(goal / (first.abs().mean() + 1e-5) + 1.02)
    torch.testing.assert_close(same, last)
    torch.testing.assert_close(evened, first * factor)


def test_how_many_losses_are_asked_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = learned(network(), NA(error="exact"), quadratic)
    monkeypatch.setattr(exact, "MOST", STEPS * len(batch().images) * 3 * 2)  # two neurons at once
    for one, other in zip(learned(network(), NA(error="exact"), quadratic), expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_spikes_may_be_packed() -> None:
    expected = learned(network(), NA(error="exact"), quadratic)
    found = learned(network(), NA(error="exact", pack_spikes=True), quadratic)
    for one, other in zip(found, expected, strict=True):
        assert one.grad is not None and other.grad is not None
        assert bool(one.grad.any()) and torch.equal(one.grad, other.grad)


@each_firing
def test_the_loss_falls(firing: Firing) -> None:
    given = batch(24)
    snn = network(firing).float()
    *_, (_, neuron) = snn.neurons()
    for parameter in (neuron.threshold, snn.net.get_parameter("2.weight")):
        parameter.data.mul_(10)  # outputs large enough for a small cross-entropy
    training = st.Training(learning_rate=2e-2, warmup=0.0)
    history = st.tune(
        snn, [(given.images.float(), given.labels)], NA(error="exact"), steps=STEPS, epochs=40,
        training=training,
    )  # fmt: skip
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss


def test_half_precision_takes_the_same_way() -> None:
    snn = network().float()
    given = Batch(batch().images.float(), batch().labels)
    learn = prepare(snn, NA(error="exact"), Task(steps=STEPS, criterion=of_training()(snn)))
    with torch.autocast("cpu", torch.bfloat16):
        learn(given)
    for name, parameter in snn.net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def refused(snn: SpikingNetwork, criterion: Criterion, *words: str) -> None:
    with pytest.raises(TuneError, match=".*".join(words)):
        prepare(snn, NA(error="exact"), Task(steps=STEPS, criterion=criterion))(batch())


def test_what_it_cannot_look_at_is_refused() -> None:
    ann = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    snn = st.twin(ann, STEPS, (8,)).double()
    before = [one.requires_grad for one in snn.parameters()]
    refused(snn, quadratic, "linear", "end the network in neurons", r"NA\(error='e'\)")
    assert [one.requires_grad for one in snn.parameters()] == before
    snn = network()
    snn.drive = 3
    refused(snn, quadratic, "synapse_2|relu", r"drive=3 of 5 steps", r"NA\(error='g'\)")


def test_a_loss_that_is_not_the_mean_of_its_images_is_refused() -> None:
    by_itself = r"loss of each image by itself"
    refused(network(), lambda sent, _: sent.square().sum(), by_itself, r"not their mean", "'e'")
    refused(network(), lambda sent, _: sent.mean().square(), by_itself, r"not their mean", "'e'")
    refused(
        network(), lambda sent, _: sent.mean() * float(sent.detach().max()), by_itself,
        "does not allow", "answers alone",
    )  # fmt: skip
    snn = network()
    with Objective(snn, st.Training(loss=st.RMP()), steps=STEPS) as criterion:
        refused(snn, criterion, by_itself, "does not allow", "RMP", "answers alone")
