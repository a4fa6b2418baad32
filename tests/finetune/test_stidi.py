"""The gradients of STiDi and its relatives, against closed forms and rules written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Batch, Objective, Task
from spiketune.finetune.rules import prepare
from spiketune.snn import PSP, spike_times_of, timed_layers

HORIZON = 12
Array = NDArray[np.float64]


def network(
    psp: PSP | None = None, *, threshold: float = 1.0, scale: float = 1.0, binary: bool = False
) -> st.SpikingNetwork:
    torch.manual_seed(2)
    layers = [nn.Linear(8, 7, bias=False), nn.Linear(7, 4, bias=False)]
    snn = st.single_spike(
        layers, (8,), window=6, horizon=HORIZON, psp=psp, threshold=threshold, binary=binary
    ).double()
    for layer in timed_layers(snn).values():
        layer.set_weight(scale * (layer.weight + 0.25))
    return snn


def images(count: int = 6) -> Tensor:
    x = torch.rand(count, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return (1.3 * x - 0.3).clamp_min(0)


def gradients(
    snn: st.SpikingNetwork, rule: st.STiDi, loss: st.finetune.Loss | None = None
) -> dict[str, Tensor]:
    x = images()
    training = st.Training() if loss is None else st.Training(loss=loss)
    with Objective(snn, training, steps=HORIZON) as criterion:
        learn = prepare(snn, rule, Task(steps=HORIZON, criterion=criterion))
        learn(Batch(x, torch.arange(len(x)) % 4))
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


def closed_form(times: Tensor, weight: Tensor, fired: Tensor, tau: float) -> Tensor:
    """Return ``t_j = (θ τ + Σ w t_i)/Σ w`` over the spikes before ``fired``, for ``θ = 1``."""
    before = (times.unsqueeze(1) < fired.unsqueeze(2)).double()
    weighted = before * weight
    return (tau + (weighted * times.unsqueeze(1)).sum(2)) / weighted.sum(2)


def test_the_exact_form_is_autograd_through_closed_forms() -> None:
    snn = network(scale=2.5)
    with torch.no_grad():
        timed_layers(snn)["linear1"].weight[3] = -0.1  # silent
    found = gradients(snn, st.STiDi(v_min=1e-9, wake=0.0))
    one, two = (layer.weight.detach().clone().requires_grad_() for layer in
                timed_layers(snn).values())  # fmt: skip
    times = spike_times_of(snn, images())
    hidden, output = times.fired["linear1"].detach(), times.output.detach()
    assert bool((output < HORIZON).all()) and bool((hidden >= HORIZON).any())
    arriving = times.arriving["linear1"].flatten(1)
    first = closed_form(arriving, one, hidden, 6.0)
    first = torch.where(hidden < HORIZON, first, float(HORIZON))
    second = closed_form(first, two, output, 6.0)
    torch.testing.assert_close(second, output)
    logits = 40 * (1 - second / HORIZON)
    nn.functional.cross_entropy(logits, torch.arange(6) % 4).backward()
    assert one.grad is not None and two.grad is not None
    torch.testing.assert_close(found["linear1.weight"], one.grad)
    torch.testing.assert_close(found["linear2.weight"], two.grad)


def s4nn(x: Array, weights: list[Array], labels: Array, gamma: float) -> list[Array]:
    """Return the mean update of S4NN's rule, image by image and neuron by neuron, times -1/η."""
    updates = [np.zeros_like(w) for w in weights]
    for image, label in zip(x, labels, strict=True):
        times = [np.where(image > 0, 6 * (1 - image), HORIZON)]
        for w in weights:
            out = np.full(len(w), float(HORIZON))
            for j in range(len(w)):
                for t in np.unique(times[-1][times[-1] < HORIZON]):
                    if (w[j] * (times[-1] <= t)).sum() >= HORIZON:  # the threshold
                        out[j] = t
                        break
            times.append(out)
        delta = targets(times[-1], int(label), gamma) - times[-1]
        for layer in reversed(range(len(weights))):
            delta = delta / np.linalg.norm(delta) if delta.any() else delta
            before = (times[layer][None] <= times[layer + 1][:, None]) & (times[layer] < HORIZON)
            updates[layer] += delta[:, None] * before / len(x)
            delta = (weights[layer] * before * delta[:, None]).sum(0)
    return updates


def targets(times: Array, label: int, gamma: float) -> Array:
    """Return the relative targets of one image."""
    first, found = times.min(), times.copy()
    for j in range(len(times)):
        if first == HORIZON:
            found[j] = HORIZON - gamma if j == label else HORIZON
        elif j == label:
            found[j] = first
        elif times[j] - first < gamma:
            found[j] = min(first + gamma, HORIZON)
    return found


def stepped() -> st.SpikingNetwork:
    # A threshold of the horizon makes the slope of silent neurons one, as S4NN takes all to be.
    return network(st.StepPSP(), threshold=HORIZON, scale=18.0)


@pytest.mark.parametrize(
    "rule",
    [st.STiDi(form="s4nn", wake=0.0), st.STiDi(form="displacement", v_min=1.0, wake=0.0)],
    ids=["s4nn", "displacement of steps"],
)
def test_steps_learn_as_s4nn_does(rule: st.STiDi) -> None:
    snn = stepped()
    found = gradients(snn, rule, st.RelativeTarget(gamma=0.1))
    weights = [layer.weight.detach().numpy() for layer in timed_layers(snn).values()]
    x, labels = images().numpy(), np.arange(6) % 4
    times = spike_times_of(snn, images())
    silent = [bool((one >= HORIZON).any()) for one in times.fired.values()]
    assert all(silent) and bool((times.output < HORIZON).any())
    expected = s4nn(x, weights, labels, 0.1 * HORIZON)
    for name, update in zip(("linear1.weight", "linear2.weight"), expected, strict=True):
        np.testing.assert_allclose(found[name].numpy(), update, atol=1e-12)


@pytest.mark.parametrize("sloped", [False, True])
def test_displacements_keep_their_norm_and_take_no_slopes_along(sloped: bool) -> None:
    snn = network(scale=1.5)
    x = images()
    rule = st.STiDi(form="displacement", sloped=sloped, wake=0.0)
    gradients(snn, rule)  # sets what goes back
    last = timed_layers(snn)["linear2"]
    arriving = spike_times_of(snn, x).fired["linear1"].detach().requires_grad_()
    fired = last(arriving)
    wanted = torch.randn(fired.shape, dtype=torch.float64)
    fired.backward(wanted)
    assert arriving.grad is not None
    torch.testing.assert_close(arriving.grad.norm(dim=1), wanted.norm(dim=1))
    before = arriving.unsqueeze(1) <= fired.clamp_max(HORIZON).unsqueeze(2)
    before = before & (arriving < HORIZON).unsqueeze(1)
    # Of a linear potential the slope is the same for all that has arrived.
    raw = torch.einsum("bji,bj,ji->bi", before.double(), wanted, last.weight)
    expected = raw * (wanted.norm(dim=1) / raw.norm(dim=1)).unsqueeze(1)
    torch.testing.assert_close(arriving.grad, expected.detach())


def test_slopes_are_clamped() -> None:
    times = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    layer = st.snn.TimedLinear(
        torch.tensor([[0.5, -0.49]], dtype=torch.float64), psp=st.LinearPSP(tau=1.0), horizon=100
    )
    layer.credit = st.STiDi(v_min=5.0).credit  # 5 θ/H = 0.05 against a slope of 0.01
    found = layer(times)
    found.sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(found, torch.tensor([[51.0]]).double())
    torch.testing.assert_close(layer.weight.grad, -torch.tensor([[51.0, 50.0]]).double() / 0.05)


@settings(deadline=None, max_examples=60)
@given(
    times=strategies.lists(
        strategies.one_of(strategies.just(float(HORIZON)), strategies.floats(0, HORIZON)),
        min_size=3, max_size=6,
    ),
    label=strategies.integers(0, 2),
)  # fmt: skip
def test_targets_are_relative_to_the_first_spike(times: list[float], label: int) -> None:
    found = st.RelativeTarget(gamma=0.2).targets(
        torch.tensor([times], dtype=torch.float64), torch.tensor([label]), HORIZON
    )
    np.testing.assert_allclose(
        found[0].numpy(), targets(np.array(times), label, 0.2 * HORIZON), atol=1e-12
    )


def test_the_gradient_of_a_relative_target_is_a_displacement_of_norm_one() -> None:
    snn = stepped()
    outputs = spike_times_of(snn, images()).output.detach()
    labels = torch.arange(6) % 4
    with Objective(snn, st.Training(loss=st.RelativeTarget()), steps=HORIZON) as criterion:
        race = st.snn.race_of(snn)
        logits = race.logits(outputs).requires_grad_()
        loss = criterion(logits[None], Batch(images(), labels))
        loss.backward()
    ends = outputs.clamp_max(HORIZON)
    delta = st.RelativeTarget().targets(ends, labels, HORIZON) - ends
    assert loss.item() == pytest.approx(delta.norm(dim=1).mean().item())
    assert logits.grad is not None
    by_time = logits.grad * -race.sharpness / HORIZON
    unit = delta / delta.norm(dim=1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(by_time, -unit / 6)


@pytest.mark.parametrize("form", ["exact", "displacement", "s4nn"])
def test_gradients_may_go_back_through_real_weights(form: str) -> None:
    binary = network(scale=1.5, binary=True)
    rule = st.STiDi(form=form, real_back=True, wake=0.0)  # type: ignore[arg-type]
    found = gradients(binary, rule)
    used = gradients(network(scale=1.5, binary=True), st.STiDi(form=form, wake=0.0))  # type: ignore[arg-type]
    assert torch.equal(found["linear2.weight"], used["linear2.weight"])
    assert not torch.equal(found["linear1.weight"], used["linear1.weight"])
    # What reaches the spikes before the last layer, by the real weights behind the signs.
    last = timed_layers(binary)["linear2"]
    arriving = spike_times_of(binary, images()).fired["linear1"].detach().requires_grad_()
    fired = last(arriving)
    wanted = torch.randn(fired.shape, dtype=torch.float64)
    fired.backward(wanted)
    before = (arriving.unsqueeze(1) <= fired.clamp_max(HORIZON).unsqueeze(2)).double()
    before = before * (arriving < HORIZON).unsqueeze(1)
    shares = wanted.unsqueeze(2) * before * last.weight
    if form == "exact":
        slope = (before * last.used).sum(2) / 6
        lack = 1 - (before * last.used * (HORIZON - arriving).unsqueeze(1) / 6).sum(2)
        least = rule.v_min / HORIZON
        steep = torch.where(fired < HORIZON, slope.clamp_min(least), (1 + lack) / HORIZON)
        expected = (shares / 6 / steep.unsqueeze(2)).sum(1)
    else:
        expected = shares.sum(1)
        expected = expected * (wanted.norm(dim=1) / expected.norm(dim=1)).unsqueeze(1)
    assert bool((fired < HORIZON).any()) and arriving.grad is not None
    torch.testing.assert_close(arriving.grad, expected.detach())


def test_neurons_that_no_image_wakes_are_pushed_along_what_arrives() -> None:
    snn = network(threshold=0.5)
    first = timed_layers(snn)["linear1"]
    with torch.no_grad():
        first.weight[2] = -0.1
        first.weight[5] = -0.3
    found = gradients(snn, st.STiDi(wake=0.5))["linear1.weight"]
    plain = network(threshold=0.5)
    with torch.no_grad():
        timed_layers(plain)["linear1"].weight.copy_(first.weight)
    without = gradients(plain, st.STiDi(wake=0.0))["linear1.weight"]
    x = images().numpy()
    arrived = np.where(x > 0, (HORIZON - 6 * (1 - x)) / 6, 0.0).mean(0)
    dead = (spike_times_of(snn, images()).fired["linear1"] >= HORIZON).all(0)
    assert bool(dead[2]) and bool(dead[5]) and not bool(dead.all())
    expected = without.clone()
    expected[dead] -= 0.5 / 0.5 * torch.tensor(arrived)  # wake/θ
    torch.testing.assert_close(found, expected)
