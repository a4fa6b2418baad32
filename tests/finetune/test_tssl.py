"""TSSL-BP: its gradient against golden numbers and sums over pairs of steps; what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import TSSL, Batch, Rule, SpikeTrain, Task, TuneError
from spiketune.finetune.losses import Objective
from spiketune.finetune.rules import outputs, prepare
from spiketune.finetune.tssl import Timing, timed, tssl_gradient
from spiketune.snn import (
    IF,
    LIF,
    Firing,
    HardReset,
    Neuron,
    Sigmoid,
    SoftReset,
    SpikingNetwork,
    Synapse,
    Triangle,
    neuron_path,
)

Array = NDArray[np.float64]
HARD = Firing(reset=HardReset(), strict=True)
LAX = Firing(reset=HardReset())
STEPS = 5


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def through(neuron: Neuron, timing: Timing) -> Neuron:
    neuron.through = partial(timed, timing)
    return neuron


@pytest.mark.parametrize("threshold", [1.0, 4.0])
def test_golden_numbers(threshold: float) -> None:
    # τ_m = 5, τ_s = 3; g is the gradient at the filtered spikes, in thresholds.
    neuron = through(LIF(double(threshold)[0], leak=0.8, firing=HARD), Timing(decay=2 / 3))
    current = (threshold * double(0.6, 0.7, 0.2, 0.9)).view(4, 1).requires_grad_()
    filtered, _ = Synapse(tau=3.0)(neuron(current)[0])
    filtered.backward(double(0.1, -0.2, 0.3, 0.05).view(4, 1))
    assert current.grad is not None
    expected = double(0.0200913651, 0.0190798658, 0.0155038760, 0.0193798450)
    torch.testing.assert_close(current.grad.flatten(), expected, rtol=0, atol=1e-10)


def test_a_spike_s_time_moves_as_the_crossing_of_a_line_does() -> None:
    # Within its step the potential rises on a line from 0.3 to u and meets 1 after (1-0.3)/(u-0.3)
    # steps; where u is just above 1, that moves by -1/(u - 0.3).
    start, tiny = 0.3, 1e-6

    def time(u: float) -> float:
        return (1 - start) / (u - start)

    slope = (time(1 + 2 * tiny) - time(1)) / (2 * tiny)
    found = tssl_gradient(
        double(1 + tiny - start)[None], double(1.0)[None], double(start), double(1.0), None,
        firing=HARD, timing=Timing(warm=None),
    )  # fmt: skip
    assert found.item() == pytest.approx(-slope, rel=1e-5)


def by_sums(
    current: Array, g: Array, threshold: float, leak: float, tau: float, timing: Timing
) -> Array:
    """Return δ of one neuron, g at its filtered spikes, by sums over all pairs of steps."""
    steps, r = len(current), 1 - 1 / tau
    membrane, u, before, s = 0.0, np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        before[t], u[t] = membrane, leak * membrane + current[t] / threshold
        s[t] = u[t] > 1
        membrane = u[t] * (1 - s[t])
    ahead = np.array([sum(g[m] * r ** (m - t) for m in range(t, steps)) for t in range(steps)])
    spikes = np.array([sum(s[m] * r ** (t - m) for m in range(t + 1)) for t in range(steps)])
    psi = -s * np.minimum(1 / np.where(s > 0, u - before, 1.0), timing.bound)
    direct = -psi * ahead / tau
    passed = -psi * u * (1 - leak) + leak * (1 - s)  # from step t + 1 to step t
    x = np.array(
        [sum(direct[k] * passed[t:k].prod() for k in range(t, steps)) for t in range(steps)]
    )
    logistic = 1 / (1 + np.exp(-5 * (u - 1)))
    slope = 5 * logistic * (1 - logistic)
    warm = -1.0 if timing.warm is None else timing.warm
    return np.where(spikes / tau < warm / tau, ahead / tau * slope, x)


@pytest.mark.parametrize("warm", [0.25, None, 1.5])
@pytest.mark.parametrize("tau", [3.0, 1.0])
@pytest.mark.parametrize(("steps", "leak"), [(1, 0.8), (6, 0.8), (6, 1.0), (20, 0.9)])
def test_the_recursion_equals_sums_over_pairs_of_steps(
    steps: int, leak: float, tau: float, warm: float | None
) -> None:
    make = torch.Generator().manual_seed(steps)
    threshold = 0.5 + torch.rand(3, 1, generator=make, dtype=torch.float64)
    drawn = torch.randn(2, steps, 4, 3, 20, generator=make, dtype=torch.float64)
    current, g = 0.35 + 0.5 * drawn[0], drawn[1]
    leaky = LIF(threshold, leak=leak, firing=HARD)
    neuron = IF(threshold, firing=HARD) if leak == 1 else leaky
    timing = Timing(warm=warm, decay=1 - 1 / tau)
    current.requires_grad_()
    filtered, _ = Synapse(tau=tau)(through(neuron, timing)(current)[0])
    filtered.backward(g)
    found = current.grad
    assert found is not None
    thresholds = threshold.expand(4, 3, 20).flatten().tolist()
    columns = zip(
        current.detach().flatten(1).T.numpy(), g.flatten(1).T.numpy(), thresholds, strict=True
    )
    expected = np.stack([by_sums(c, e, one, leak, tau, timing) for c, e, one in columns], axis=1)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=4e-15, rtol=1e-12)


@pytest.mark.parametrize("leak", [0.8, None])
def test_kernels_give_the_same(leak: float | None) -> None:
    make = torch.Generator().manual_seed(0)
    threshold = 0.5 + torch.rand(3, 1, 1, generator=make)
    current = 0.4 + 0.5 * torch.randn(6, 2, 3, 4, 4, generator=make)
    g = torch.randn(6, 2, 3, 4, 4, generator=make)
    neuron: Neuron = IF(threshold, firing=LAX)
    if leak is not None:
        neuron = LIF(threshold, leak=leak, firing=LAX)
    through(neuron, Timing(decay=0.5))
    found = []
    for path in ("eager", "compiled"):
        leaf = current.clone().requires_grad_()
        with neuron_path(path):
            neuron(leaf)[0].backward(g)
        assert leaf.grad is not None and bool(leaf.grad.any())
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("warm", [None, 0.25])
def test_two_stretches_are_as_one(warm: float | None) -> None:
    neuron = through(LIF(double(1.0)[0], leak=0.8, firing=HARD), Timing(warm=warm))
    make = torch.Generator().manual_seed(3)
    whole = 0.4 + 0.5 * torch.randn(7, 9, 5, generator=make, dtype=torch.float64)
    g = torch.randn(7, 9, 5, generator=make, dtype=torch.float64)
    whole.requires_grad_()
    neuron(whole)[0].backward(g)
    parts = [part.detach().clone().requires_grad_() for part in whole.split([3, 4])]
    sent, state = neuron(parts[0])
    torch.cat([sent, neuron(parts[1], state)[0]]).backward(g)
    found = torch.cat([part.grad for part in parts if part.grad is not None])
    assert whole.grad is not None
    torch.testing.assert_close(found, whole.grad)


def network(
    firing: Firing = HARD, *, leak: float = 0.8, tau: float | None = 3.0, factor: float = 1.0
) -> SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 2, 3, bias=False), nn.ReLU(),
    )  # fmt: skip
    snn = st.twin(ann, STEPS, (1, 9, 11), neuron=st.LeakyNeuron(leak=leak, firing=firing))
    if tau is not None:
        st.add_synapses(snn, tau, output=True)
    for name, size in (("0.weight", 5.0), ("3.weight", 5.0), ("6.weight", 4.0)):  # to fire on
        snn.net.get_parameter(name).data.mul_(size * factor)
    return snn


def images(count: int = 4) -> Tensor:
    return 2 * torch.randn(count, 1, 9, 11, generator=torch.Generator().manual_seed(1))


def gradients(
    snn: SpikingNetwork, rule: Rule, *, x: Tensor | None = None, half: bool = False
) -> dict[str, Tensor]:
    x = images() if x is None else x
    training = st.Training(loss=SpikeTrain(hit=(0, 1, 1, 1, 1)))
    with Objective(snn, training, steps=STEPS) as criterion:
        learn = prepare(snn, rule, Task(steps=STEPS, criterion=criterion))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            learn(Batch(x, torch.arange(len(x)) % 3))
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


def test_spikes_are_the_neurons_own() -> None:
    snn = network()
    plain = outputs(snn, images(64), STEPS)
    prepare(snn, TSSL(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    assert torch.equal(outputs(snn, images(64), STEPS), plain)
    assert len(torch.unique(plain.detach())) > 4
    assert not any(neuron.threshold.requires_grad for _, neuron in snn.neurons())


def test_each_neuron_goes_by_the_synapse_behind_it() -> None:
    snn = network(tau=None)
    _, neuron = next(iter(snn.neurons()))
    prepare(snn, TSSL(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    # Without synapses every silent step takes the slope: a gradient in the last step alone.
    current = torch.full((STEPS, 1, 3, 7, 9), 0.35).requires_grad_()
    sent = neuron(current)[0]
    assert sent[3:].any(0).all()  # it fires on the fourth step, and at no other
    sent[-1].sum().backward()
    slope = Sigmoid(alpha=5.0).slope(torch.tensor(0.35 - 1))
    assert current.grad is not None
    assert current.grad[-1].unique().item() == pytest.approx(slope.item())


def test_a_scaled_network_gets_the_same_gradient() -> None:
    plain, scaled = network(), network()
    with torch.no_grad():
        scaled.net.get_parameter("0.weight").mul_(4)
        (_, first), *_ = scaled.neurons()
        first.threshold.mul_(4)
        scaled.net.get_parameter("3.weight").div_(4)
    one, other = gradients(plain, TSSL()), gradients(scaled, TSSL())
    assert bool(one["0.weight"].any())
    torch.testing.assert_close(other["0.weight"] * 4, one["0.weight"])
    torch.testing.assert_close(other["3.weight"] / 4, one["3.weight"])


def test_a_silent_network_learns_by_the_slope_alone() -> None:
    silent = network(factor=1e-3)
    assert not bool(outputs(silent, images(), STEPS).any())
    warm, cold = gradients(silent, TSSL()), gradients(network(factor=1e-3), TSSL(warm=None))
    for name in ("0.weight", "3.bias"):  # of layers that something reaches
        assert bool(warm[name].any()) and not bool(cold[name].any())


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e3])
def test_dark_images_and_weights_of_any_size_give_numbers(factor: float) -> None:
    for x in (images(), torch.zeros(4, 1, 9, 11)):
        found = gradients(network(factor=factor), TSSL(), x=x)
        assert len(found) == 4 and all(bool(grad.isfinite().all()) for grad in found.values())


@pytest.mark.parametrize("leak", [0.8, 1.0], ids=["LIF", "IF"])
def test_hidden_layers_learn(leak: float) -> None:
    snn = network(leak=leak)
    snn.net.get_parameter("6.weight").requires_grad_(False)
    loss = SpikeTrain(hit=(0, 1, 1, 1, 1))
    training = st.Training(learning_rate=3e-2, warmup=0.0, loss=loss)
    labels = torch.arange(24) % 3
    history = st.tune(
        snn, [(images(24), labels)], TSSL(), steps=STEPS, epochs=40, training=training
    )
    assert min(done.loss for done in history.epochs) < 0.8 * history.epochs[0].loss


def test_memory_format_and_precision_change_little() -> None:
    plain = gradients(network(), TSSL())
    last = gradients(
        network().to(memory_format=torch.channels_last), TSSL(),
        x=images().to(memory_format=torch.channels_last),
    )  # fmt: skip
    for name in plain:
        torch.testing.assert_close(last[name], plain[name], rtol=1e-4, atol=1e-5)
    coarse = gradients(network(), TSSL(), half=True)
    assert torch.cosine_similarity(
        coarse["6.weight"].flatten(), plain["6.weight"].flatten(), dim=0
    ) > 0.9  # fmt: skip


def test_what_it_cannot_train_is_refused() -> None:
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    task = Task(steps=STEPS, criterion=lambda sent, _: sent.sum())
    with pytest.raises(TuneError, match=r"relu: TSSL trains IF and LIF neurons, not PSN"):
        prepare(st.twin(ann, 4, (4,), neuron=st.ParallelNeuron()), TSSL(), task)
    for firing in (Firing(reset=SoftReset()), Firing(reset=HardReset(to=0.2))):
        with pytest.raises(TuneError, match=r"relu: TSSL's reset term is that of a hard reset to"):
            prepare(network(firing), TSSL(), task)
    snn = network()
    snn.drive = 2
    with pytest.raises(TuneError, match=r"relu: with drive=2 .* drive=None"):
        prepare(snn, TSSL(), task)
    for name in ("bound", "warm"):
        for wrong in (0.0, -1.0, float("nan"), float("inf"), True, "8"):
            with pytest.raises(TuneError, match=f"TSSL: {name} must be above 0, not"):
                TSSL(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(TuneError, match="TSSL: slope must be one such as"):
        TSSL(slope="sigmoid")  # type: ignore[arg-type]


def test_a_trained_network_is_saved_and_another_slope_is_another_gradient(tmp_path: Path) -> None:
    snn = network()
    st.tune(snn, [(images(6), torch.arange(6) % 3)], TSSL(), steps=STEPS, epochs=1)
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    assert torch.equal(again(images()), snn(images()))
    assert "TSSL" in str(again.about["method"])
    one, other = gradients(network(), TSSL()), gradients(network(), TSSL(slope=Triangle()))
    assert not torch.equal(one["0.weight"], other["0.weight"])
