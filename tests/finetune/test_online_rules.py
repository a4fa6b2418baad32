"""SLTT and OTTT against their equations in NumPy, plain autograd, and each other at one step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from live_memory import LiveMemory
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tuning_networks import small_ann

import spiketune as st
from spiketune.finetune import OTTT, SLTT, Batch, Criterion, Rule, SurrogateBPTT, Task, TuneError
from spiketune.finetune.online import Online, by_steps, detached
from spiketune.finetune.rules import prepare
from spiketune.snn import (
    IF,
    LIF,
    PSN,
    Burst,
    Delayed,
    Firing,
    Graded,
    HardReset,
    Scaled,
    Sigmoid,
    SignedIF,
    SpikingNetwork,
    Surrogate,
)
from spiketune.snn.chunk import Moment, States

Build = Callable[..., SpikingNetwork]
Array = NDArray[np.float64]
STEPS = 5
ONLINE: list[Rule] = [SLTT(train_thresholds=False), OTTT(train_thresholds=False)]


def dense(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLUs in between, weights large enough that neurons fire."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=1.5 / wide**0.5)
    return nn.Sequential(*layers[:-1]).double()


def twin(ann: nn.Module, leak: float = 1.0) -> SpikingNetwork:
    return st.twin(deepcopy(ann), STEPS, (4,), leak=leak).train()


def images() -> Tensor:
    return torch.rand(8, 4, generator=torch.Generator().manual_seed(1)).double() * 2


def squared(targets: Tensor) -> Criterion:
    """The mean over the steps of each step's own loss."""
    return lambda outputs, _: 0.5 * (outputs - targets).square().sum() / len(outputs)


def gradients(snn: SpikingNetwork, rule: Rule, task: Task, x: Tensor) -> dict[str, Tensor]:
    snn.zero_grad()
    prepare(snn, rule, task)(Batch(x, torch.zeros(len(x), dtype=torch.long)))
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in snn.net.named_parameters()
        if p.requires_grad
    }


def in_numpy(ann: nn.Sequential, x: Array, y: Array, leak: float, traced: bool) -> dict[str, Array]:
    """The equations of both rules, layer by layer and step by step."""
    linears = [layer for layer in ann if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in linears]
    biases = [layer.bias.detach().numpy() for layer in linears]
    fades = leak if traced else 0.0
    membranes: list[Array | float] = [0.0] * (len(weights) - 1)
    traces: list[Array | float] = [0.0] * (len(weights) - 1)
    ones, spiked = 0.0, 0.0
    found = {f"{2 * i}.{k}": 0.0 for i in range(len(weights)) for k in ("weight", "bias")}
    for _ in range(STEPS):
        sent, slopes, ones = [x], [], fades * ones + 1
        for i, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            traces[i] = fades * traces[i] + sent[-1]
            before = leak * membranes[i] + sent[-1] @ w.T + b
            spikes = (before >= 1).astype(float)
            membranes[i] = before - spikes
            soft = 1 / (1 + np.exp(-4 * (before - 1)))
            slopes.append(4 * soft * (1 - soft))
            sent.append(spikes)
            spiked += spikes.sum()
        delta = (sent[-1] @ weights[-1].T + biases[-1] - y) / STEPS
        last = len(weights) - 1
        found[f"{2 * last}.weight"] += delta.T @ sent[-1]
        found[f"{2 * last}.bias"] += delta.sum(0)
        for i in reversed(range(last)):
            delta = delta @ weights[i + 1] * slopes[i]
            found[f"{2 * i}.weight"] += delta.T @ traces[i]
            found[f"{2 * i}.bias"] += delta.sum(0) * ones
    assert spiked > 20  # else nothing is tested
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("kind", [SLTT, OTTT])
def test_slopes_of_the_neurons_own_stay_where_the_rule_has_none(kind: type[SLTT | OTTT]) -> None:
    ann, x, y = dense(4, 7, 6, 3), images(), torch.randn(8, 3).double()
    snn, rule = twin(ann, 0.5), kind(surrogate=None, train_thresholds=False)
    own: list[Surrogate] = [Scaled(surrogate=Sigmoid(alpha=4.0), gain=gain) for gain in (0.7, 2.5)]
    for (_, neuron), slope in zip(snn.neurons(), own, strict=True):
        neuron.firing = replace(neuron.firing, surrogate=slope)
    task = Task(steps=STEPS, criterion=squared(y))
    found = gradients(snn, rule, task, x)
    assert [neuron.firing.surrogate for _, neuron in snn.neurons()] == own
    expected = in_numpy(ann, x.numpy(), y.numpy(), 0.5, kind is OTTT)
    # Each neuron that a gradient passes on its way back scales it by its gain.
    for layer, factor in (("0", 0.7 * 2.5), ("2", 2.5), ("4", 1.0)):
        for part in ("weight", "bias"):
            name = f"{layer}.{part}"
            np.testing.assert_allclose(found[name], factor * expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("leak", [1.0, 0.5])
@pytest.mark.parametrize("rule", ONLINE)
def test_gradients_meet_the_equations(rule: Rule, leak: float) -> None:
    ann, y = dense(4, 7, 6, 5, 3), torch.randn(8, 3).double()
    found = gradients(twin(ann, leak), rule, Task(steps=STEPS, criterion=squared(y)), images())
    expected = in_numpy(ann, images().numpy(), y.numpy(), leak, isinstance(rule, OTTT))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient.numpy(), expected[name], rtol=1e-10, atol=1e-12)


def by_autograd(
    modules: list[nn.Module], x: Tensor, y: Tensor, leak: float, *, cut: bool
) -> dict[str, Tensor]:
    """Plain backpropagation through time, or with the membrane cut off between the steps."""
    held = nn.ModuleList(modules)
    held.zero_grad()
    membranes: dict[int, Tensor] = {}
    loss = torch.zeros(())
    for _ in range(STEPS):
        value = x
        for place, module in enumerate(modules):
            if not isinstance(module, nn.ReLU):
                value = module(value)
                continue
            before = membranes.get(place, torch.zeros_like(value))
            u = leak * (before.detach() if cut else before) + value
            soft = torch.sigmoid(4 * (u - 1))
            value = (u >= 1).double() + soft - soft.detach()
            membranes[place] = u - value.detach()
        loss = loss + 0.5 * (value - y).square().sum() / STEPS
    loss.backward()
    return {name: p.grad for name, p in held.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("leak", [1.0, 0.75])
def test_one_layer_of_neurons_gets_the_gradient_of_bptt_by_traces(leak: float) -> None:
    ann, y = dense(4, 9, 3), torch.randn(8, 3).double()
    snn, task = twin(ann, leak), Task(steps=STEPS, criterion=squared(y))
    expected = by_autograd(list(ann), images(), y, leak, cut=False)
    for name, gradient in gradients(snn, ONLINE[1], task, images()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)
    cut = by_autograd(list(ann), images(), y, leak, cut=True)
    assert (cut["0.weight"] - expected["0.weight"]).abs().max() > 1e-3
    for name, gradient in gradients(snn, ONLINE[0], task, images()).items():
        torch.testing.assert_close(gradient, cut[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leak", [1.0, 0.75])
def test_so_does_a_layer_that_sees_spikes_of_others(leak: float) -> None:
    ann, y = dense(4, 9, 6, 3), torch.randn(8, 3).double()
    ann[0].requires_grad_(False)
    snn, task = twin(ann, leak), Task(steps=STEPS, criterion=squared(y))
    snn.net.get_parameter("0.weight").requires_grad_(False)
    snn.net.get_parameter("0.bias").requires_grad_(False)
    expected = by_autograd(list(ann), images(), y, leak, cut=False)
    found = gradients(snn, ONLINE[1], task, images())
    assert found.keys() == expected.keys() == {"2.weight", "2.bias", "4.weight", "4.bias"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)


class Block(nn.Module):
    """One layer of neurons that adds up what comes by two ways, behind spikes of others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.long, self.short = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(3, 5, 1)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes = torch.relu(self.first(x))
        current = self.long(spikes) + self.short(functional.avg_pool2d(spikes, 2))
        return self.last(torch.relu(current).mean((2, 3)))


def test_traces_pass_convolutions_sums_and_pools() -> None:
    torch.manual_seed(0)
    snn = st.twin(Block(), STEPS, (1, 6, 6), leak=0.5).double()
    for _, neuron in snn.neurons():
        neuron.threshold.fill_(0.25)
    snn.net.get_parameter("first.weight").requires_grad_(False)
    snn.net.get_parameter("first.bias").requires_grad_(False)
    x, y = 3 * torch.rand(4, 1, 6, 6).double(), torch.randn(4, 3).double()
    task = Task(steps=STEPS, criterion=squared(y))
    expected = gradients(snn, SurrogateBPTT(train_thresholds=False), task, x)
    for name, gradient in gradients(snn, ONLINE[1], task, x).items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)
    spatial = gradients(snn, ONLINE[0], task, x)
    assert (spatial["long.weight"] - expected["long.weight"]).norm() > 1e-3


class Gained(nn.Linear):
    """A layer whose weights are made of others, as under weight standardisation."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__(wide, narrow)
        self.gain = nn.Parameter(torch.rand(narrow, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.gain, self.bias)


@pytest.mark.parametrize("rule", ONLINE)
def test_weights_that_are_made_of_others_train(rule: Rule) -> None:
    torch.manual_seed(2)
    ann = nn.Sequential(Gained(4, 8), nn.ReLU(), Gained(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    plain, y = dense(4, 8, 6, 3), torch.randn(8, 3).double()
    with torch.no_grad():
        for place in (0, 2, 4):
            gain = ann[place].gain if place < 4 else 1.0
            plain[place].weight.copy_(ann[place].weight * gain)
            plain[place].bias.copy_(ann[place].bias)
    expected = in_numpy(plain, images().numpy(), y.numpy(), 1.0, isinstance(rule, OTTT))
    found = gradients(twin(ann), rule, Task(steps=STEPS, criterion=squared(y)), images())
    for place in (0, 2):
        of = torch.from_numpy(expected[f"{place}.weight"])
        torch.testing.assert_close(found[f"{place}.weight"], of * ann[place].gain)
        torch.testing.assert_close(
            found[f"{place}.gain"], (of * ann[place].weight).sum(1, keepdim=True)
        )


def test_batch_norm_sees_one_step_at_a_time() -> None:
    ann, y = dense(4, 7, 6, 3), torch.randn(8, 3).double()
    layers = [*ann[:3], nn.BatchNorm1d(6).double(), *ann[3:]]
    snn = twin(nn.Sequential(*layers))
    found = gradients(snn, ONLINE[0], Task(steps=STEPS, criterion=squared(y)), images())
    expected = by_autograd(layers, images(), y, 1.0, cut=True)
    norm, own = layers[3], snn.net.get_submodule("3.norm")
    assert isinstance(norm, nn.BatchNorm1d) and isinstance(own, nn.BatchNorm1d)
    torch.testing.assert_close(found["2.weight"], expected["2.weight"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["3.norm.weight"], expected["3.weight"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(own.running_var, norm.running_var)
    assert own.num_batches_tracked == STEPS


def test_the_loss_and_answers_are_those_of_all_steps(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    snn, criterion = build(), squared(torch.zeros(()))
    for rule in (SLTT(), SLTT(k=1), OTTT()):
        outcome = prepare(snn, rule, Task(steps=4, criterion=criterion))(Batch(*data))
        with torch.no_grad():
            outputs = torch.cat(list(snn.outputs(data[0], 4)))
        torch.testing.assert_close(outcome.loss, criterion(outputs, Batch(*data)))
        torch.testing.assert_close(outcome.answers, snn(data[0], 4))


@pytest.mark.parametrize("kind", ["if", "lif", "signed"])
@pytest.mark.parametrize("rule", [SLTT(), SLTT(k=1), OTTT()])
def test_at_one_step_all_rules_are_the_same(
    build: Build, data: tuple[Tensor, Tensor], kind: str, rule: Rule
) -> None:
    snn, task = build(kind).double(), Task(steps=1, criterion=squared(torch.ones(())))
    expected = gradients(snn, SurrogateBPTT(), task, data[0].double())
    found = gradients(snn, rule, task, data[0].double())
    assert found.keys() == expected.keys() and any("threshold" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)


def cut_by_hand(snn: SpikingNetwork, task: Task, x: Tensor) -> dict[str, Tensor]:
    """SLTT without its economy: one graph of all steps, the stem computed anew at each."""
    snn.zero_grad()
    states: States = {}
    loss = torch.zeros(())
    for _ in range(task.steps):
        outputs, states = snn.program.run(snn.program.stem(x), states, Moment(1))
        states = {name: detached(state) for name, state in states.items()}
        loss = loss + task.criterion(outputs, Batch(x, x)) / task.steps
    loss.backward()
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: SignedIF(torch.tensor(0.5), initial=0.5),
        lambda: Burst(torch.tensor(0.5), most=3),
        lambda: Graded(torch.tensor(2.0), levels=4),
        lambda: LIF(torch.tensor(0.5), leak=0.9, firing=Firing(reset=HardReset())),
    ],
)
def test_any_neuron_and_functions_of_sums_learn_step_by_step(
    neuron: Callable[[], nn.Module], data: tuple[Tensor, Tensor]
) -> None:
    ann = nn.Sequential(*small_ann()[:2], nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.GELU())
    snn = st.twin(nn.Sequential(ann, nn.ReLU(), nn.Flatten()), 3, (1, 8, 8)).double()
    for node, _ in list(snn.neuron_nodes()):
        snn.net.set_submodule(str(node.target), neuron().double())
    snn.refresh()
    task, x = Task(steps=3, criterion=squared(torch.ones(()))), data[0].double()
    found = gradients(snn, SLTT(), task, x)
    expected = cut_by_hand(snn, task, x)
    assert found["0.0.weight"].abs().sum() > 0 and found["0.3.weight"].abs().sum() > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_what_the_task_scales_is_scaled_once() -> None:
    ann, y = dense(4, 7, 6, 3), torch.randn(8, 3).double()
    snn = twin(ann)
    for rule in ONLINE:
        plain = gradients(snn, rule, Task(steps=STEPS, criterion=squared(y)), images())
        task = Task(steps=STEPS, criterion=squared(y), backward=lambda loss: (3 * loss).backward())
        for name, gradient in gradients(snn, rule, task, images()).items():
            torch.testing.assert_close(gradient, 3 * plain[name], rtol=1e-10, atol=1e-12)


def test_drawing_all_steps_is_drawing_none() -> None:
    snn, task = twin(dense(4, 7, 3)), Task(steps=STEPS, criterion=squared(torch.ones(3)))
    whole = gradients(snn, SLTT(), task, images())
    for name, gradient in gradients(snn, SLTT(k=STEPS), task, images()).items():
        assert torch.equal(gradient, whole[name])


def test_drawn_steps_are_any_and_their_mean_is_proportional_to_all() -> None:
    # Every pair of four steps: each step is in half of them.
    snn, task = twin(dense(4, 7, 6, 3)), Task(steps=4, criterion=squared(torch.ones(3)))
    batch, name = Batch(images(), torch.zeros(8)), "0.weight"
    weight = snn.net.get_parameter(name)

    def of(steps: set[int]) -> Tensor:
        snn.zero_grad()
        by_steps(snn, task, Online(snn), lambda: steps)(batch)
        assert weight.grad is not None
        return weight.grad.clone()

    whole = gradients(snn, SLTT(), task, images())[name]
    pairs = [of(set(pair)) for pair in combinations(range(4), 2)]
    torch.testing.assert_close(torch.stack(pairs).mean(0), whole / 2, rtol=1e-10, atol=1e-12)
    met: set[int] = set()
    for seed in range(40):
        torch.manual_seed(seed)
        drawn = gradients(snn, SLTT(k=2), task, images())[name]
        (which,) = [i for i, pair in enumerate(pairs) if torch.allclose(drawn, pair, rtol=1e-9)]
        met.add(which)
    assert met == set(range(6))


@pytest.mark.parametrize("rule", [SLTT(), SLTT(k=2), OTTT(), SurrogateBPTT()])
def test_memory_does_not_grow_with_the_steps(build: Build, rule: Rule) -> None:
    snn, x = build(), torch.rand(40, 1, 8, 8)
    peaks = []
    for steps in (2, 16):
        learn = prepare(snn, rule, Task(steps=steps, criterion=squared(torch.ones(()))))
        snn.zero_grad()
        with LiveMemory() as memory:
            learn(Batch(x, torch.zeros(40)))
        peaks.append(memory.peak)
    if isinstance(rule, SurrogateBPTT):
        assert peaks[1] > 5 * peaks[0]
    else:
        assert peaks[1] <= 1.02 * peaks[0]


@pytest.mark.parametrize("rule", [SLTT(), SLTT(k=2), OTTT()])
def test_a_run_learns(build: Build, data: tuple[Tensor, Tensor], rule: Rule) -> None:
    snn, training = build("signed"), st.Training(learning_rate=1e-2)
    history = st.tune(snn, [data] * 5, rule, steps=4, epochs=4, training=training)
    first, last = history.epochs[0], history.epochs[-1]
    assert last.loss < first.loss and last.accuracy > 0.9 > 0.5 > first.accuracy


def with_neuron(neuron: nn.Module, *, place: int = 1) -> SpikingNetwork:
    snn = twin(dense(4, 7, 6, 3))
    node, _ = list(snn.neuron_nodes())[place]
    snn.net.set_submodule(str(node.target), neuron.double())
    snn.refresh()
    return snn


def refuses(snn: SpikingNetwork, rule: Rule, *said: str, steps: int = 4) -> None:
    with pytest.raises(TuneError) as raised:
        prepare(snn, rule, Task(steps=steps, criterion=squared(torch.ones(()))))
    for words in said:
        assert words in str(raised.value)


@pytest.mark.parametrize("rule", ONLINE)
def test_networks_without_an_answer_at_each_step_are_refused(rule: Rule) -> None:
    snn = twin(dense(4, 7, 3))
    snn.drive = 2
    refuses(snn, rule, "acts for 2 steps only", "SurrogateBPTT()")
    snn.drive, snn.readout = None, Delayed(start=2)
    refuses(snn, rule, "Delayed(start=2)", "snn.readout = Mean()")
    refuses(with_neuron(PSN(torch.tensor(1.0), steps=4)), rule, "3_relu", "PSN", "all its steps")


@pytest.mark.parametrize("rule", [SLTT(), SLTT(k=1), OTTT()])
def test_a_loss_that_looks_at_all_steps_is_refused(
    build: Build, data: tuple[Tensor, Tensor], rule: Rule
) -> None:
    training = st.Training(loss=st.RMP())
    with pytest.raises(TuneError, match=r"needs all 4 steps .* SurrogateBPTT\(\)"):
        st.tune(build(), [data], rule, steps=4, epochs=1, training=training)


def test_a_number_of_drawn_steps_that_cannot_be_is_refused() -> None:
    with pytest.raises(TuneError, match="k must be at least 1 step, or None for all, not 0"):
        SLTT(k=0)
    refuses(twin(dense(4, 7, 3)), SLTT(k=5), "k=5 steps cannot be drawn out of 4")


def test_what_no_trace_can_be_kept_for_is_refused_by_name() -> None:
    hard = Firing(reset=HardReset())
    refuses(with_neuron(IF(torch.tensor(1.0), firing=hard)), OTTT(), "HardReset", "SLTT()")
    refuses(with_neuron(Graded(torch.tensor(1.0))), OTTT(), "Graded", "SLTT()")
    per_neuron = LIF(torch.tensor(1.0), leak=torch.full((6,), 0.5))
    refuses(with_neuron(per_neuron), OTTT(), "one leak for all neurons")
    trained = LIF(torch.tensor(1.0), leak=0.5)
    trained.leak.requires_grad_(True)
    refuses(with_neuron(trained), OTTT(), "does not train")
    layers = dense(4, 7, 6, 3)
    normed = twin(nn.Sequential(*layers[:3], nn.BatchNorm1d(6).double(), *layers[3:]))
    refuses(normed, OTTT(), "BatchNorm1d", "SLTT()")
    curved = twin(nn.Sequential(*layers[:3], nn.GELU(), *layers[3:]))
    refuses(curved, OTTT(), "linear", "gelu", "SLTT()")


class Forked(nn.Module):
    """What one layer sends goes two ways: to neurons, and elsewhere."""

    def __init__(self, elsewhere: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.elsewhere = elsewhere

    def forward(self, x: Tensor) -> Tensor:
        sent = self.second(torch.relu(self.first(x)))
        return self.last(torch.relu(sent) + self.elsewhere(sent))


class Factor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x)


def test_one_trace_for_two_fates_is_refused() -> None:
    forked = twin(Forked(nn.Identity()))
    refuses(forked, OTTT(), "linear_1", "the answer", "fades differently")
    leaky = twin(Forked(nn.ReLU()))
    node, _ = list(leaky.neuron_nodes())[-1]
    leaky.net.set_submodule(str(node.target), LIF(torch.tensor(1.0), leak=0.5).double())
    leaky.refresh()
    refuses(leaky, OTTT(), "linear_1", "fades differently", "SLTT()")


def test_a_trained_factor_is_refused() -> None:
    snn = twin(Forked(Factor()))
    refuses(snn, OTTT(), "mul", "scale", "requires_grad")
    snn.net.get_parameter("elsewhere.scale").requires_grad_(False)
    prepare(snn, OTTT(), Task(steps=2, criterion=squared(torch.ones(()))))
