"""Losses against golden numbers, NumPy and finite differences; what they watch and leave behind."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from tuning_networks import small_ann, spiking

import spiketune as st
from spiketune.finetune import (
    RMP,
    TET,
    Batch,
    Features,
    IMLoss,
    Learn,
    Loss,
    MeanCrossEntropy,
    Objective,
    Outcome,
    Rule,
    SurrogateBPTT,
    Task,
    Training,
    TuneError,
    rules,
    tune,
)
from spiketune.finetune.distill import divergence
from spiketune.finetune.leaky import make_leaky
from spiketune.finetune.losses import before_firing
from spiketune.finetune.watch import Watch
from spiketune.snn import IF, LIF, PLIF, Firing, HardReset, Neuron, SoftReset, SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
Array = np.ndarray


def criterion(snn: SpikingNetwork, steps: int, **settings: object) -> Objective:
    return Objective(snn, Training(**settings), steps=steps)  # type: ignore[arg-type]


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def shares(labels: Array, classes: int, smoothing: float) -> Array:
    hot = np.eye(classes)[labels] if labels.ndim == 1 else labels
    return (1 - smoothing) * hot + smoothing / classes


# The answers


def test_tet_meets_the_golden_number(build: Build) -> None:
    outputs = torch.tensor([[[1.0, 0, -1]], [[0.0, 2, 0]]], dtype=torch.float64)
    loss = criterion(build(), 2, loss=TET(lam=0.05, means=1.0))
    found = loss(outputs, Batch(torch.zeros(1, 1, 8, 8), torch.tensor([1])))
    assert found.item() == pytest.approx(0.8490632637, abs=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_cross_entropies_are_numpys(build: Build, smoothing: float, mixed: bool) -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=(3, 4, 5))
    labels = random.dirichlet(np.ones(5), 4) if mixed else random.integers(0, 5, 4)
    target = shares(labels, 5, smoothing)
    batch = Batch(torch.zeros(4, 1, 8, 8), torch.from_numpy(labels))
    of_mean = -(target * log_softmax(outputs.mean(0))).sum(-1).mean()
    of_each = -(target * log_softmax(outputs)).sum(-1).mean()
    expected = {
        MeanCrossEntropy(): of_mean,
        TET(lam=0.0): of_each,
        TET(lam=0.3, means=2.0): 0.7 * of_each + 0.3 * ((outputs - 2) ** 2).mean(),
    }
    for settings, value in expected.items():
        loss = criterion(build(), 3, loss=settings, label_smoothing=smoothing)
        found = loss(torch.from_numpy(outputs), batch)
        assert found.item() == pytest.approx(value, rel=1e-12), settings


def test_one_step_makes_tet_the_cross_entropy(build: Build) -> None:
    outputs, batch = torch.randn(1, 6, 10), Batch(torch.zeros(6, 1, 8, 8), torch.arange(6))
    found = criterion(build(), 1, loss=TET(lam=0.0))(outputs, batch)
    torch.testing.assert_close(found, criterion(build(), 1)(outputs, batch))


def test_divergence_of_answers_is_that_of_timms_task() -> None:
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
    for network in (student, teacher):
        network.pretrained_cfg = {"mean": (0.5,), "std": (0.5,)}  # type: ignore[assignment]
        network.num_classes, network.in_chans = 3, 1  # type: ignore[assignment]
    task = LogitDistillationTask(
        student, teacher, nn.CrossEntropyLoss(), task_loss_weight=0.7, temperature=3.0,
        verbose=False,
    )  # fmt: skip
    x, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    answers, taught = student(x), teacher(x).detach()
    found = task(x, labels)
    torch.testing.assert_close(9 * divergence(answers, taught, 3.0), found["kd_loss"])
    snn = spiking(nn.Sequential(*student, nn.ReLU()), x)
    ours = criterion(snn, 1, distillation=0.3, temperature=3.0)
    total = ours(answers.unsqueeze(0), Batch(x, labels, taught))
    torch.testing.assert_close(total, found["loss"])


# The membranes


def noting(reset: SoftReset | HardReset, seen: list[Tensor]) -> SoftReset | HardReset:
    """Return the same reset, which keeps the membranes that a neuron's own step hands it."""

    class Noting(type(reset)):  # type: ignore[misc]
        def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Tensor) -> Tensor:
            seen.append(membrane)
            return reset(membrane, spikes, threshold)

    return Noting(**vars(reset))  # type: ignore[no-any-return]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", [SoftReset(), HardReset(to=0.1)])
@pytest.mark.parametrize("kind", [IF, LIF, PLIF])
def test_membranes_are_those_the_neuron_fires_at(
    kind: type[Neuron], reset: SoftReset | HardReset, detach: bool
) -> None:
    torch.manual_seed(0)
    own = {"leak": 0.8} if kind is LIF else {}
    threshold = torch.tensor([0.5, 1.0, 2.0])
    neuron = kind(threshold, initial=0.5, firing=Firing(reset=reset, detach_reset=detach), **own)
    neuron.threshold.requires_grad_()
    current = torch.randn(6, 4, 3, requires_grad=True) + 0.5
    spikes, _ = neuron(current)
    found = before_firing(neuron, current, spikes, None)
    seen: list[Tensor] = []
    neuron.firing = replace(neuron.firing, reset=noting(reset, seen))
    neuron(current)
    expected = torch.stack(seen)
    assert torch.equal(found, expected)
    assert 0 < spikes.count_nonzero() < spikes.numel()
    weights = torch.randn_like(found)
    trained = [current, *(p for p in neuron.parameters() if p.requires_grad)]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), trained),
        torch.autograd.grad((expected * weights).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def simulated(c: Array, theta: Array, kind: str, steps: int) -> tuple[Array, Array]:
    """Return membranes before firing and spikes, ``[T, B, N]``, of a constant current."""
    m, membranes, spikes = 0.5 * theta * np.ones_like(c), [], []
    for _ in range(steps):
        m = 0.9 * m + c if kind == "lif" else m + c
        s = (m >= theta).astype(float)
        membranes.append(m)
        spikes.append(s)
        m = m - theta * s
    return np.stack(membranes), np.stack(spikes)


class Layers:
    """One hidden layer, in torch as the library runs it and in NumPy as the equations say it."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(2)
        ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        self.x, self.labels = torch.rand(5, 1, 2, 2).double(), torch.tensor([0, 1, 2, 2, 1])
        self.kind, self.snn = kind, spiking(ann, self.x, kind)
        ((_, neuron),) = self.snn.neurons()
        neuron.initial.fill_(0.5)
        self.theta = neuron.threshold
        self.weight, self.bias = ann[1].weight, ann[1].bias
        self.weight = self.snn.net.get_parameter("1.weight")

    def relative(self, weight: Array, theta: Array, steps: int) -> tuple[Array, Array]:
        """Return membranes and currents in thresholds."""
        c = self.x.flatten(1).numpy() @ weight.T + self.bias.detach().numpy()
        return simulated(c, theta, self.kind, steps)[0] / theta, c / theta

    def gradients(self, loss: Loss, steps: int) -> tuple[float, Tensor, Tensor]:
        """Return the loss and its gradients by weight and threshold."""
        self.snn.zero_grad()
        batch = Batch(self.x, self.labels)
        with criterion(self.snn, steps, loss=loss) as measure:
            learn = rules.prepare(self.snn, SurrogateBPTT(), Task(steps=steps, criterion=measure))
            value = learn(batch).loss.item()
        assert self.weight.grad is not None
        assert self.theta.grad is not None
        return value, self.weight.grad.clone(), self.theta.grad.clone()


def rmp_of(u: Array, c: Array, steps: int) -> float:
    return float((np.minimum(abs(u), abs(u - 1)) ** 3).mean())


PENALTIES: dict[str, tuple[Loss, Callable[[Array, Array, int], float]]] = {
    "rmp": (RMP(weight=0.7, power=3), rmp_of),
    "im": (IMLoss(weight=0.7), lambda u, c, steps: (u.mean() - 1) ** 2),
    "im of the current": (
        IMLoss(weight=0.7, of="current"),
        lambda u, c, steps: (c.mean() - 0.5 / steps) ** 2,
    ),
}


@pytest.mark.parametrize("kind", ["if", "lif"])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_their_gradients(name: str, kind: str) -> None:
    layers, steps, grain = Layers(kind), 5, 1e-6
    loss, penalty = PENALTIES[name]
    value, by_weight, by_theta = layers.gradients(loss, steps)
    plain, plain_by_weight, plain_by_theta = layers.gradients(MeanCrossEntropy(), steps)
    weight, theta = layers.weight.detach().numpy(), layers.theta.detach().numpy()

    def at(weight: Array, theta: Array) -> float:
        return 0.7 * penalty(*layers.relative(weight, theta, steps), steps)

    assert value - plain == pytest.approx(at(weight, theta), rel=1e-10)
    for place in [(0, 0), (2, 3), (5, 1)]:
        change = np.zeros_like(weight)
        change[place] = grain
        slope = (at(weight + change, theta) - at(weight - change, theta)) / (2 * grain)
        found = (by_weight - plain_by_weight)[place].item()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-9)
    for place in range(6):
        change = np.zeros_like(theta)
        change[place] = grain
        slope = (at(weight, theta + change) - at(weight, theta - change)) / (2 * grain)
        found = (by_theta - plain_by_theta)[place].item()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-9)


def currents(snn: SpikingNetwork, x: Tensor, steps: int) -> list[tuple[Neuron, Tensor]]:
    """Return each neuron and the current ``[T, B, ...]`` that it receives."""
    found: list[tuple[Neuron, Tensor]] = []
    hooks = [
        neuron.register_forward_hook(lambda unit, args, out: found.append((unit, args[0])))
        for _, neuron in snn.neurons()
    ]
    with torch.no_grad():
        list(snn.outputs(x, steps, chunk=steps))
    for hook in hooks:
        hook.remove()
    return found


def test_layers_count_alike_in_rmp_and_add_up_in_im(build: Build, data: Data) -> None:
    snn, steps = build("if"), 4
    layers = []
    for neuron, current in currents(snn, data[0], steps):
        m, theta, seen = 0.5 * neuron.threshold, neuron.threshold, []
        for c in current:
            seen.append((m + c) / theta)
            m = m + c - theta * (m + c >= theta)
        layers.append(torch.stack(seen))
    assert len(layers) == 2
    expected = {
        RMP(weight=1.0): sum(torch.minimum(u**2, (u - 1) ** 2).mean() for u in layers) / 2,
        IMLoss(weight=1.0): sum((u.mean() - 1) ** 2 for u in layers),
    }
    batch = Batch(*data)
    for loss, penalty in expected.items():
        with criterion(snn, steps, loss=loss) as measure:
            found = measure(torch.cat(list(snn.outputs(batch.images, steps))), batch)
        with criterion(snn, steps) as measure:
            plain = measure(torch.cat(list(snn.outputs(batch.images, steps))), batch)
        torch.testing.assert_close(found - plain, penalty, rtol=1e-4, atol=1e-6)


def test_chunks_make_no_difference(build: Build, data: Data) -> None:
    snn, batch = build("lif"), Batch(*data)
    values = []
    for chunk in (6, 4, 1):
        with criterion(snn, 6, loss=RMP()) as measure:
            outputs = torch.cat(list(snn.outputs(batch.images, 6, chunk=chunk)))
            values.append(measure(outputs, batch))
    torch.testing.assert_close(values[1:], values[:1] * 2)


@pytest.mark.parametrize("settings", [{"recompute_blocks": 2}, {"recompute_steps": 2}])
def test_computing_again_makes_no_difference(
    build: Build, data: Data, ann: nn.Module, settings: dict[str, int]
) -> None:
    found = []
    for rule in (SurrogateBPTT(), SurrogateBPTT(**settings)):
        snn = build("lif")
        training = Training(loss=RMP(weight=3.0), features=Features(at=("1", "3")))
        with Objective(snn, training, steps=5, teacher=ann) as measure:
            for _ in range(2):
                snn.zero_grad()
                ann(data[0])
                learn = rules.prepare(snn, rule, Task(steps=5, criterion=measure))
                loss = learn(Batch(*data)).loss
                assert all(not watch._sums for watch in watches(measure)), "sums were kept"
        found.append([loss, *(p.grad for p in snn.parameters())])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def watches(objective: Objective) -> list[Watch]:
    assert objective._features is not None
    return [*objective._watches, objective._features.watch]


def test_a_loss_may_stand_inside_another(build: Build, data: Data) -> None:
    snn, batch = build(), Batch(*data)

    def value(loss: Loss) -> Tensor:
        with criterion(snn, 3, loss=loss) as measure:
            return measure(torch.cat(list(snn.outputs(batch.images, 3))), batch)

    both = value(RMP(answers=IMLoss(answers=TET())))
    parts = value(RMP(answers=TET())) + value(IMLoss(answers=TET())) - value(TET())
    torch.testing.assert_close(both, parts)


@pytest.mark.parametrize("loss", [RMP(weight=2.0), IMLoss(weight=2.0)])
def test_training_lowers_the_penalty(build: Build, data: Data, loss: Loss) -> None:
    def left(trained_with: Loss) -> float:
        snn = build()
        training = Training(learning_rate=3e-3, loss=trained_with)
        tune(snn, [data] * 10, SurrogateBPTT(), steps=3, epochs=2, training=training)
        values = []
        for one in (loss, MeanCrossEntropy()):
            with criterion(snn, 3, loss=one) as measure:
                outputs = torch.cat(list(snn.outputs(data[0], 3)))
                values.append(measure(outputs, Batch(*data)).item())
        return values[0] - values[1]

    assert left(loss) < 0.8 * left(MeanCrossEntropy())


@pytest.mark.parametrize("kind", ["if", "signed", "lif"])
def test_tet_learns_with_every_neuron(build: Build, data: Data, kind: str) -> None:
    training = Training(learning_rate=1e-2, loss=TET())
    snn = build(kind)
    history = tune(snn, [data] * 10, SurrogateBPTT(), steps=3, epochs=3, training=training)
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    assert history.epochs[-1].accuracy > 0.8


# What is watched, and left behind


def hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays_behind(build: Build, data: Data, ann: nn.Module, fails: bool) -> None:
    snn = build()
    seen = []

    def on_batch(_: object) -> None:
        seen.append(hooks(snn) + hooks(ann))
        if fails:
            raise KeyboardInterrupt

    training = Training(loss=RMP(), features=Features(at=("1", "3")))
    try:
        tune(
            snn, [data], SurrogateBPTT(), steps=2, epochs=1, training=training, teacher=ann,
            on_batch=on_batch,
        )  # fmt: skip
    except KeyboardInterrupt:
        assert fails
    assert seen == [2 + 2 + 3]
    assert hooks(snn) + hooks(ann) == 0
    deepcopy(snn)


def test_neurons_that_a_rule_exchanges_are_watched(build: Build, data: Data) -> None:
    snn, batch = build("if"), Batch(*data)
    values = []
    for exchanged in (False, True):
        measure = criterion(snn, 3, loss=RMP())
        if exchanged:
            make_leaky(snn)
        with measure:
            values.append(measure(torch.cat(list(snn.outputs(batch.images, 3))), batch))
    assert {type(neuron) for _, neuron in snn.neurons()} == {LIF}
    torch.testing.assert_close(*values)


class StepByStep(Rule):
    """Shows the loss one step at a time, as rules do whose memory does not grow with T."""


@pytest.fixture
def step_by_step() -> Rule:
    rules._PREPARE[StepByStep] = lambda snn, rule, task: _step_by_step(snn, task)
    yield StepByStep()
    del rules._PREPARE[StepByStep]


def _step_by_step(snn: SpikingNetwork, task: Task) -> Learn:
    def learn(batch: Batch) -> Outcome:
        for out in snn.outputs(batch.images, task.steps, chunk=1):
            loss = task.criterion(out, batch) / task.steps
            task.backward(loss)
        return Outcome(loss.detach(), out[0].detach())

    return learn


@pytest.mark.parametrize(
    "settings", [{"loss": RMP()}, {"loss": IMLoss()}, {"features": Features(at=("1",))}]
)
def test_a_rule_that_shows_single_steps_is_refused(
    build: Build, data: Data, ann: nn.Module, step_by_step: Rule, settings: dict[str, object]
) -> None:
    with pytest.raises(TuneError, match=r"needs all 3 steps when the loss is taken, .* ran 1"):
        tune(
            build(), [data], step_by_step, steps=3, epochs=1, teacher=ann,
            training=Training(**settings),  # type: ignore[arg-type]
        )  # fmt: skip


# Features


@pytest.fixture
def ann() -> nn.Module:
    return small_ann()


def test_features_are_the_mean_of_the_spikes(build: Build, data: Data, ann: nn.Module) -> None:
    snn, batch, steps = build("signed"), Batch(*data), 5
    snn.drive = 3
    sent: dict[str, Tensor] = {}
    with torch.no_grad():
        taught = [ann[:2](data[0]), ann[:4](data[0])]
        monitored: dict[str, list[Tensor]] = {}
        snn.unroll(
            data[0], steps, monitor=lambda name, out: monitored.setdefault(name, []).append(out)
        )
        sent = {name: torch.cat(parts).sum(0) / 3 for name, parts in monitored.items()}
    apart = [(mean - x).square().mean() for mean, x in zip(sent.values(), taught, strict=True)]
    found = {}
    for at in (("1",), ("3",), ("3", "1")):
        training = Training(features=Features(at=at, weight=0.5))
        with Objective(snn, training, steps=steps, teacher=ann) as measure:
            ann(data[0])
            outputs = torch.cat(list(snn.outputs(data[0], steps)))
            found[at] = measure(outputs, batch) - criterion(snn, steps)(outputs, batch)
    torch.testing.assert_close(found[("1",)], 0.5 * apart[0])
    torch.testing.assert_close(found[("3",)], 0.5 * apart[1])
    torch.testing.assert_close(found[("3", "1")], 0.5 * (apart[0] + apart[1]))
    snn.zero_grad()
    found[("1",)].backward()
    gradient = snn.net.get_parameter("0.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_features_come_closer_by_training(build: Build, data: Data, ann: nn.Module) -> None:
    def apart(weight: float) -> float:
        snn = build()
        rate = Training(learning_rate=3e-3, features=Features(at=("1", "3"), weight=weight))
        tune(snn, [data] * 10, SurrogateBPTT(), steps=2, epochs=2, teacher=ann, training=rate)
        one = Training(features=Features(at=("1", "3")))
        with Objective(snn, one, steps=2, teacher=ann) as measure:
            ann(data[0])
            outputs = torch.cat(list(snn.outputs(data[0], 2)))
            total = measure(outputs, Batch(*data))
        return (total - criterion(snn, 2)(outputs, Batch(*data))).item()

    assert apart(10.0) < 0.8 * apart(1e-6)


class Shared(nn.Module):
    """Calls one activation twice, in place, and halves what it said, in place too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x.flatten(1)))
        x = self.act(self.second(x))
        x *= 0.5
        return self.head(x)


def test_a_shared_activation_is_compared_call_by_call() -> None:
    torch.manual_seed(0)
    ann, x = Shared().eval(), torch.rand(6, 1, 2, 2)
    snn = st.to_snn(ann, x, st.Ternary(steps=400, threshold=st.Max(), encode=False))
    training = Training(features=Features(at=("act",)))
    batch = Batch(x, torch.zeros(6, dtype=torch.int64))
    with Objective(snn, training, steps=400, teacher=ann) as measure:
        ann(x)
        outputs = torch.cat(list(snn.outputs(x, 400)))
        left = measure(outputs, batch) - criterion(snn, 400)(outputs, batch)
    assert 0 <= left < 1e-4  # the limit: every neuron says the activation it stands for


# Bad input


REFUSED: dict[str, tuple[str, Callable[[], Training], str]] = {
    "rmp of ternary": ("signed", lambda: Training(loss=RMP()), r"_relu: RMP .* a SignedIF is none"),
    "im of ternary": ("signed", lambda: Training(loss=IMLoss()), r"a SignedIF is none; convert"),
    "nested": ("signed", lambda: Training(loss=RMP(answers=IMLoss())), r"SignedIF is none"),
    "no loss": ("if", lambda: Training(loss="tet"), r"'tet' is not a loss; use .* MeanCross.* TET"),
    "weight of rmp": ("if", lambda: Training(loss=RMP(weight=0)), r"weight must be above 0, not 0"),
    "power": ("if", lambda: Training(loss=RMP(power=0.5)), r"power must be at least 1"),
    "weight of im": ("if", lambda: Training(loss=IMLoss(weight=-1)), r"above 0, not -1"),
    "of": ("if", lambda: Training(loss=IMLoss(of="x")), r"membrane or current, not 'x'"),
    "lam": ("if", lambda: Training(loss=TET(lam=2)), r"lam must be from 0 to 1, not 2"),
    "places as text": ("if", lambda: Training(features=Features(at="1")), r"tuple of module paths"),
    "no places": ("if", lambda: Training(features=Features(at=())), r"tuple of module paths"),
    "weightless": (
        "if", lambda: Training(features=Features(at=("1",), weight=0)), r"weight must be above 0"
    ),
    "no such module": (
        "if", lambda: Training(features=Features(at=("9",))), r"teacher has no module '9'"
    ),
    "no neuron there": (
        "if", lambda: Training(features=Features(at=("2",))), r"network has no neuron at '2'"
    ),
    "a block": ("if", lambda: Training(features=Features(at=("",))), r"is a block of the teacher"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(build: Build, data: Data, ann: nn.Module, case: str) -> None:
    kind, training, message = REFUSED[case]
    with pytest.raises(TuneError, match=message):
        tune(
            build(kind), [data], SurrogateBPTT(), steps=2, epochs=1, teacher=ann,
            training=training(),
        )  # fmt: skip


def test_features_without_a_teacher_are_refused(build: Build, data: Data) -> None:
    training = Training(features=Features(at=("1",)))
    with pytest.raises(TuneError, match="needs the teacher to compare with; give teacher="):
        tune(build(), [data], SurrogateBPTT(), steps=2, epochs=1, training=training)


def test_features_of_another_shape_are_refused(build: Build, data: Data, ann: nn.Module) -> None:
    wide = nn.Sequential(nn.Conv2d(1, 9, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    training = Training(features=Features(at=("1",)))
    wide(data[0])
    with pytest.raises(TuneError, match=r"sends \[80, 4, 4, 4\] .* \[\[80, 9, 3, 3\]\]; leave 1"):
        tune(build(), [data], SurrogateBPTT(), steps=2, epochs=1, training=training, teacher=wide)


def test_tet_with_a_drive_is_refused(build: Build, data: Data) -> None:
    snn = build("signed")
    snn.drive = 2
    with pytest.raises(TuneError, match=r"drive=2 .* use MeanCrossEntropy\(\)"):
        tune(snn, [data], SurrogateBPTT(), steps=2, epochs=1, training=Training(loss=TET()))


def test_resume_with_another_loss_is_refused(build: Build, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def go(loss: Loss, resume: bool) -> None:
        tune(
            build(), [data], SurrogateBPTT(), steps=2, epochs=1, training=Training(loss=loss),
            checkpoint=path, resume=resume,
        )  # fmt: skip

    go(RMP(answers=TET()), False)
    go(RMP(answers=TET()), True)
    with pytest.raises(TuneError, match=r"lam was 0\.05, now 0\.1"):
        go(RMP(answers=TET(lam=0.1)), True)
    with pytest.raises(TuneError, match=r"answers was TET\(.*\), now MeanCrossEntropy\(\)"):
        go(RMP(), True)
