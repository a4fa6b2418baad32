"""The quantised ANN that QCFS trains is the one that the spiking network comes to rest at.

Its values are compared with plain torch written here, its gradients with finite differences of
the smooth parts: with the remainders of ``floor`` held fixed, or between the ends of a range.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.convert.ceiling import at_rest as at_ceiling
from spiketune.finetune import QCFS, Batch, Features, Task, Training, TuneError, tune
from spiketune.finetune.qcfs import quantised
from spiketune.finetune.rules import prepare
from spiketune.snn import IF, LIF, Firing, Graded, SignedIF, SpikingNetwork

REST = 120  # steps after the drive; the tests assert that the network is quiet by then
Act = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A residual sum, an average pool, a hidden layer; the activation is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.hidden = nn.Linear(16, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, act: Act = torch.relu) -> Tensor:
        x = act(self.second(act(self.first(x))))
        x = act(self.third(x) + x)
        return self.head(act(self.hidden(functional.avg_pool2d(x, 2).flatten(1))))


class Levels:
    """``Q`` of one neuron after another, and the integers it came to.

    With ``frozen`` remainders ``floor`` is a line: its value here, its slope that of its argument.
    """

    def __init__(self, thresholds: list[Tensor], levels: int) -> None:
        self.thresholds, self.levels = thresholds, levels
        self.counts: list[Tensor] = []
        self.frozen: list[Tensor] | None = None
        self.remainders: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        place = len(self.counts)
        theta = self.thresholds[place]
        exact = self.levels * z / theta + 0.5
        count = exact.floor()
        if self.frozen is not None:
            count = exact + self.frozen[place]
        self.remainders.append(count - exact)
        inside = (exact > 0) & (exact < self.levels)
        ends = (exact >= self.levels) * torch.full_like(exact, self.levels)
        count = torch.where(inside, count, ends)
        self.counts.append(count)
        return count * theta / self.levels


def converted(net: nn.Module, x: Tensor, levels: int, **choices: object) -> SpikingNetwork:
    method = st.Ternary(steps=levels, drive=levels, encode=False, **choices)  # type: ignore[arg-type]
    return st.to_snn(net, x, method)


def plain(snn: SpikingNetwork) -> nn.Module:
    """Return the ANN with the weights of the network."""
    net = Net().double()
    own = dict(snn.net.named_parameters())
    net.load_state_dict({name: own[name].detach() for name in net.state_dict()})
    return net


def thresholds(snn: SpikingNetwork) -> list[Tensor]:
    return [neuron.threshold.detach() for _, neuron in snn.neurons()]


@torch.no_grad()
def at_rest(snn: SpikingNetwork, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the answer and the spikes each neuron kept; fail if the network is not quiet."""
    sizes = {name: neuron.threshold for name, neuron in snn.neurons()}
    kept: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}

    def watch(name: str, out: Tensor) -> None:
        spikes = (out / sizes[name]).round()
        last[name] = out
        kept[name] = kept.get(name, 0) + spikes.sum(0)

    assert snn.drive is not None
    curve = snn.unroll(x, snn.drive + REST, monitor=watch)
    assert not any(out.any() for out in last.values()), "not quiet yet"
    return curve[-1], list(kept.values())


def answer(snn: SpikingNetwork, x: Tensor, rule: QCFS) -> Tensor:
    """Return what the rule trains the network to answer."""
    task = Task(steps=rule.levels, criterion=lambda outputs, batch: outputs.sum())
    return prepare(snn, rule, task)(Batch(x, torch.zeros(len(x)))).answers


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=generator)


# The same function


@pytest.mark.parametrize("gradient", ["qcfs", "lsq"])
@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_trained_at_rest_and_plain_are_equal_bit_for_bit(
    levels: int, gradient: str, seed: int
) -> None:
    torch.manual_seed(seed)
    net = Net().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 64).round() / 64)
        for layer in (net.second, net.third, net.hidden):
            layer.bias.add_(0.5)
    x = (images(5, seed) * 64).round() / 64
    snn = converted(net, x, levels, threshold=st.Max())
    with torch.no_grad():
        for _, neuron in snn.neurons():
            neuron.threshold.copy_(2 ** neuron.threshold.log2().floor())
    reference = Levels(thresholds(snn), levels)
    expected = net(x, reference)
    found = answer(snn, x, QCFS(levels=levels, gradient=gradient))  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    spiking, counts = at_rest(snn, x)
    assert torch.equal(spiking, expected)
    assert all(torch.equal(a, b) for a, b in zip(counts, reference.counts, strict=True))
    if levels == 4:
        assert any(bool((count == levels).any()) for count in counts), "nothing was clipped"
        assert sum(len(count.unique()) > 2 for count in counts) > 1


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("gradient", ["qcfs", "lsq"])
def test_after_training_nothing_is_lost(gradient: str, per: str) -> None:
    torch.manual_seed(0)
    x, labels = images(12), torch.arange(12) % 3
    snn = converted(Net().double(), x, 4, per=per)
    before, weight = thresholds(deepcopy(snn)), snn.net.get_parameter("first.weight").clone()
    rule = QCFS(levels=4, gradient=gradient)  # type: ignore[arg-type]
    training = Training(learning_rate=0.01)
    history = tune(snn, [(x, labels)] * 5, rule, steps=24, epochs=4, training=training)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert (snn.steps, snn.drive) == (24, 4)
    assert not torch.equal(snn.net.get_parameter("first.weight"), weight)
    for theta, old in zip(thresholds(snn), before, strict=True):
        assert theta.shape == old.shape
        assert not torch.equal(theta, old)
        assert bool((theta > 0).all())
    assert [neuron.limit for _, neuron in snn.neurons()] == [4] * 4  # type: ignore[attr-defined]
    reference = Levels(thresholds(snn), 4)
    with torch.no_grad():
        expected = plain(snn)(x, reference)
    spiking, counts = at_rest(snn, x)
    assert all(torch.equal(a, b) for a, b in zip(counts, reference.counts, strict=True))
    torch.testing.assert_close(spiking, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer(snn, x, rule), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(snn.ann(x, instead=at_ceiling(4)), expected)
    torch.testing.assert_close(at_rest(snn.fold(), x)[0], expected, rtol=1e-12, atol=1e-12)


@given(
    z=some.lists(some.floats(-4, 4), min_size=1, max_size=20),
    theta=some.floats(0.1, 3),
    offset=some.sampled_from([0.0, 0.25, 0.5]),
    levels=some.integers(1, 9),
)
@settings(deadline=None)
def test_levels_lie_even_and_rise(z: list[float], theta: float, offset: float, levels: int) -> None:
    current = torch.tensor(sorted(z), dtype=torch.float64)
    size = torch.tensor(theta, dtype=torch.float64)
    neuron = SignedIF(size, initial=offset, limit=levels)
    found = quantised(neuron, current, QCFS(levels=levels)).detach().numpy()
    counts = found * levels / theta
    assert np.allclose(counts, counts.round(), atol=1e-9)
    assert counts.min() >= 0
    assert counts.max() <= levels * (1 + 1e-12)
    assert (np.diff(found) >= 0).all()
    inside = (current.numpy() > 0) & (current.numpy() < theta)
    assert (abs(found - current.numpy())[inside] <= theta / levels * (1 + 1e-9)).all()


# Gradients


def slopes(
    z: Tensor, theta: Tensor, rule: QCFS, weights: Tensor, offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    neuron = SignedIF(theta, initial=offset, limit=rule.levels)
    neuron.threshold.requires_grad_()
    z = z.clone().requires_grad_()
    (quantised(neuron, z, rule) * weights).sum().backward()
    assert z.grad is not None
    assert neuron.threshold.grad is not None
    return z.grad, neuron.threshold.grad


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 2, 2)])
def test_gradients_are_those_of_the_line_between_the_levels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z = torch.randn(5, 3, 2, 2, dtype=torch.float64) * 2
    theta = torch.rand(shape, dtype=torch.float64) + 0.5
    weights = torch.randn_like(z)
    by_z, by_theta = slopes(z, theta, QCFS(levels=4), weights)
    first = Levels([theta], 4)
    first(z)

    def smooth(z: Tensor, theta: Tensor) -> Tensor:
        again = Levels([theta], 4)
        again.frozen = first.remainders
        return again(z) * weights

    grain = 1e-6
    expected = (smooth(z + grain, theta) - smooth(z - grain, theta)) / (2 * grain)
    torch.testing.assert_close(by_z, expected, rtol=1e-8, atol=1e-8)
    slope = (smooth(z, theta + grain) - smooth(z, theta - grain)) / (2 * grain)
    torch.testing.assert_close(by_theta, slope.sum_to_size(shape), rtol=1e-7, atol=1e-8)
    assert 0 < by_z.count_nonzero() < by_z.numel()


def test_slope_over_whole_levels_is_one() -> None:
    """A finite difference of ``Q`` itself, over a multiple of its step, has no remainder."""
    theta, levels = torch.tensor(2.0, dtype=torch.float64), 8
    neuron = SignedIF(theta, initial=0.5, limit=levels)
    rule = QCFS(levels=levels)
    z = torch.linspace(0.3, 1.4, 7, dtype=torch.float64)
    rise = quantised(neuron, z + 0.25, rule) - quantised(neuron, z - 0.25, rule)
    torch.testing.assert_close(slopes(z, theta, rule, torch.ones_like(z))[0], rise / 0.5)


@pytest.mark.parametrize("offset", [0.25, 0.5])
def test_where_gradients_pass(offset: float) -> None:
    theta, levels = torch.tensor(2.0, dtype=torch.float64), 4
    low, high = -offset * 0.5, 2.0 - offset * 0.5
    z = torch.tensor([low - 0.01, low + 0.01, -0.01, 0.01, high - 0.01, high + 0.01, 1.99, 2.01])
    z = z.double()
    one = torch.ones_like(z)
    passes = {
        "qcfs": [0.0, 1, 1, 1, 1, 0, 0, 0],
        "lsq": [0.0, 0, 0, 1, 1, 1, 1, 0],
    }
    for gradient, expected in passes.items():
        rule = QCFS(levels=levels, gradient=gradient)  # type: ignore[arg-type]
        assert slopes(z, theta, rule, one, offset)[0].tolist() == expected
        each = [slopes(x.view(1, 1), theta, rule, one[:1].view(1, 1), offset)[1] for x in z]
        scale = {"qcfs": 1.0, "lsq": levels**-0.5}[gradient]
        said = (levels * z / 2 + offset).floor().clamp(0, levels) * 2 / levels
        inside = torch.tensor(expected, dtype=torch.bool)
        wanted = torch.where(inside, (said - z) / 2, (z > 1).double()) * scale
        torch.testing.assert_close(torch.stack(each), wanted)


def test_lsq_scales_by_how_many_share_a_threshold() -> None:
    """Esser et al. 2020, section 2.2: the gradient of a step size times 1/√(N Q)."""
    z, levels = torch.full((7, 3, 2, 4), 9.0, dtype=torch.float64), 5
    rule = QCFS(levels=levels, gradient="lsq")
    for shape, sharing in [((), 24), ((3, 1, 1), 8), ((3, 2, 4), 1)]:
        _, found = slopes(z, torch.ones(shape, dtype=torch.float64), rule, torch.ones_like(z))
        total = 7 * sharing / (sharing * levels) ** 0.5
        torch.testing.assert_close(found, torch.full(shape, total, dtype=torch.float64))


def test_gradients_through_the_whole_network() -> None:
    torch.manual_seed(1)
    x, labels = images(4), torch.tensor([0, 1, 2, 1])
    snn = converted(Net().double(), x, 4, per="layer")
    task = Task(steps=9, criterion=lambda outputs, batch: _cross_entropy(snn, outputs, batch))
    loss = prepare(snn, QCFS(levels=4), task)(Batch(x, labels)).loss
    net, first = plain(snn), Levels(thresholds(snn), 4)
    with torch.no_grad():
        assert functional.cross_entropy(net(x, first), labels).item() == pytest.approx(loss.item())

    @torch.no_grad()
    def smooth(sizes: list[Tensor]) -> float:
        again = Levels(sizes, 4)
        again.frozen = first.remainders
        return functional.cross_entropy(net(x, again), labels).item()

    grain = 1e-6
    for name, place in [("first.weight", (1, 0, 2, 1)), ("third.bias", (2,)), ("head.bias", (0,))]:
        parameter = net.get_parameter(name)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * grain
                values.append(smooth(first.thresholds))
                parameter[place] -= sign * grain
        found = snn.net.get_parameter(name).grad
        assert found is not None
        slope = (values[0] - values[1]) / (2 * grain)
        assert found[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-9), name
        assert abs(slope) > 1e-6, name
    for place, (name, neuron) in enumerate(snn.neurons()):
        values = []
        for sign in (1, -1):
            moved = [theta.clone() for theta in first.thresholds]
            moved[place] += sign * grain
            values.append(smooth(moved))
        assert neuron.threshold.grad is not None
        slope = (values[0] - values[1]) / (2 * grain)
        assert neuron.threshold.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-9), name


def _cross_entropy(snn: SpikingNetwork, outputs: Tensor, batch: Batch) -> Tensor:
    assert len(outputs) == 9
    return functional.cross_entropy(snn.read(outputs), batch.labels)


# Training


@pytest.fixture
def task() -> tuple[Tensor, Tensor]:
    """Twelve noisy patterns in three classes."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.rand(12, 1, 8, 8, generator=generator)
    labels = torch.arange(96) % 12
    noise = 0.2 * torch.randn(96, 1, 8, 8, generator=generator)
    return patterns[labels] + noise, labels % 3


def trained_ann(data: tuple[Tensor, Tensor]) -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        functional.cross_entropy(net(data[0]), data[1]).backward()
        optimizer.step()
    return net.eval()


def right(snn: SpikingNetwork, data: tuple[Tensor, Tensor]) -> float:
    answers, _ = at_rest(snn, data[0])
    return float((answers.argmax(1) == data[1]).double().mean())


def test_two_levels_learn_what_conversion_loses(task: tuple[Tensor, Tensor]) -> None:
    ann = trained_ann(task)
    snn = converted(ann, task[0], 2)
    before = right(snn, task)
    history = tune(
        snn, [task] * 10, QCFS(levels=2), steps=40, epochs=3, teacher=ann, validate=[task],
        training=Training(learning_rate=5e-3),
    )  # fmt: skip
    with torch.no_grad():
        reached = float((ann(task[0]).argmax(1) == task[1]).double().mean())
    after = right(snn, task)
    assert after == pytest.approx(_accuracy(snn, task), abs=1e-12)
    assert history.epochs[-1].validation == pytest.approx(after, abs=0.011)
    assert before < reached - 0.05
    assert after > before + 0.05


def _accuracy(snn: SpikingNetwork, data: tuple[Tensor, Tensor]) -> float:
    found = answer(snn, data[0], QCFS(levels=2)).argmax(1)
    return float((found == data[1]).double().mean())


def test_features_are_those_of_the_quantised_ann() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(30, 1, 8, 8).double()
    snn = converted(ann, x, 2)
    ((_, neuron),) = snn.neurons()
    active = Levels([neuron.threshold.detach()], 2)(ann[:2](x).detach())
    apart = 3 * (active - ann[:3](x)).square().mean().item()
    losses = []
    for features in (None, Features(at=("2",), weight=3.0)):
        training = Training(features=features)
        history = tune(
            deepcopy(snn), [(x, torch.zeros(30).long())], QCFS(levels=2), steps=7, epochs=1,
            teacher=ann, training=training,
        )  # fmt: skip
        losses.append(history.epochs[0].loss)
    assert apart > 0.001
    assert losses[1] - losses[0] == pytest.approx(apart, rel=1e-9)


def test_thresholds_stay_above_their_floors(task: tuple[Tensor, Tensor]) -> None:
    snn = converted(Net(), task[0], 2)
    before = thresholds(deepcopy(snn))
    wild = Training(optimizer="sgd", learning_rate=1.0, clip_grad=None)
    tune(snn, [task] * 5, QCFS(levels=2), steps=4, epochs=2, training=wild)
    for theta, old in zip(thresholds(snn), before, strict=True):
        assert bool((theta >= 0.01 * old).all())
    again = deepcopy(snn)
    fixed = QCFS(levels=2, train_thresholds=False)
    tune(again, [task], fixed, steps=4, epochs=1)
    assert all(torch.equal(*pair) for pair in zip(thresholds(again), thresholds(snn), strict=True))


# Bad input


def exchanged(neuron: nn.Module) -> SpikingNetwork:
    snn = converted(Net(), images(4).float(), 4)
    node, _ = next(iter(snn.neuron_nodes()))
    snn.net.set_submodule(str(node.target), neuron)
    snn.refresh()
    return snn


THETA = torch.ones(4, 1, 1)
REFUSED: dict[str, tuple[Callable[[], SpikingNetwork], str]] = {
    "no drive": (
        lambda: st.to_snn(Net(), images(4).float(), st.Ternary(encode=False)),
        r"drive=None; convert with Ternary\(steps=4, drive=4, encode=False\)",
    ),
    "graded by default": (  # no number of levels would help
        lambda: st.to_snn(Net(), images(4).float()), r"not Graded; convert with Ternary"
    ),
    "another drive": (
        lambda: converted(Net(), images(4).float(), 3), r"drive=3; give QCFS\(levels=3\), or"
    ),
    "if": (lambda: exchanged(IF(THETA)), r"^relu\w*: QCFS trains SignedIF .* not IF;"),
    "lif": (lambda: exchanged(LIF(THETA, leak=0.5)), r"^relu\w*: .* not LIF; convert"),
    "graded": (lambda: exchanged(Graded(THETA, levels=1, drive=4)), r"^relu\w*: .* not Graded;"),
    "another limit": (lambda: exchanged(SignedIF(THETA, limit=3)), r"^relu\w*: .* limit=3"),
    "no limit": (lambda: exchanged(SignedIF(THETA)), r"^relu\w*: .* limit=None"),
    "strict": (
        lambda: exchanged(SignedIF(THETA, limit=4, firing=Firing(strict=True))), r"strict=True"
    ),
    "signed values": (lambda: exchanged(SignedIF(THETA, limit=4, floor=None)), r"floor=None"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    torch.manual_seed(0)  # weights drawn by chance may leave a tiny layer dead
    make, message = REFUSED[case]
    data = [(images(4).float(), torch.arange(4) % 3)]
    with pytest.raises(TuneError, match=message):
        tune(make(), data, QCFS(levels=4), steps=8, epochs=1)


def test_too_few_steps_and_strange_settings_are_refused() -> None:
    torch.manual_seed(0)
    snn, data = converted(Net(), images(4).float(), 4), [(images(4).float(), torch.arange(4) % 3)]
    with pytest.raises(TuneError, match="takes at least 4 steps, not 3"):
        tune(snn, data, QCFS(levels=4), steps=3, epochs=1)
    with pytest.raises(TuneError, match="drive=4 the steps"):
        tune(snn, data, QCFS(levels=4), steps=4, epochs=1, training=Training(loss=st.TET()))
    with pytest.raises(TuneError, match="levels must be at least 1"):
        QCFS(levels=0)
    with pytest.raises(TuneError, match="gradient must be qcfs or lsq"):
        QCFS(levels=4, gradient="ste")  # type: ignore[arg-type]
