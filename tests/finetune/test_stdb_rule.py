"""What STDB does to a network: leaks, what trains, whom it refuses; its command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from tuning_networks import freeze_last_layer

from spiketune import cli
from spiketune.finetune import (
    STDB,
    Batch,
    Exponential,
    Rule,
    SurrogateBPTT,
    Task,
    Training,
    TuneError,
    tune,
)
from spiketune.finetune.rules import prepare
from spiketune.snn import LIF, Burst, Graded, Linear, SpikingNetwork, load, save

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]


@pytest.mark.parametrize("slope", [Exponential(), Linear()], ids=repr)
@pytest.mark.parametrize("kind", ["if", "lif"])
def test_the_rule_changes_no_answer(
    build: Build, data: Data, kind: str, slope: Exponential | Linear
) -> None:
    snn = build(kind)
    snn.drive = 2  # runs in two parts
    with torch.no_grad():
        before = snn(data[0], 5)
    prepare(snn, STDB(slope=slope), Task(steps=5, criterion=lambda a, _: a.sum()))
    torch.testing.assert_close(snn(data[0], 5).detach(), before)
    assert {type(neuron).__name__ for _, neuron in snn.neurons()} == {kind.upper()}


def test_a_leak_makes_every_neuron_leak(build: Build, data: Data) -> None:
    snn, leaking, task = build(), build("lif"), Task(steps=5, criterion=lambda a, _: a.sum())
    for one in (snn, leaking):
        prepare(one, STDB(slope=Exponential(), leak=0.8), task)
    assert all(isinstance(n, LIF) and n.leak.item() == pytest.approx(0.8) for _, n in snn.neurons())
    for _, neuron in leaking.neurons():
        assert isinstance(neuron, LIF) and neuron.leak.item() == pytest.approx(0.8)
        neuron.initial.fill_(0.5)  # the only other difference between the two kinds
    assert torch.equal(snn(data[0]), leaking(data[0]))
    assert not torch.equal(snn(data[0]), build()(data[0]))


def test_weights_train_and_nothing_else(build: Build, data: Data, tmp_path: Path) -> None:
    snn = build()
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    tune(snn, [data] * 3, STDB(slope=Linear(), leak=0.9), steps=4, epochs=1)
    for name, value in snn.state_dict().items():
        fixed = "threshold" in name or "initial" in name
        assert torch.equal(value, before.get(name, torch.tensor(0.9))) == (fixed or "leak" in name)
    save(snn, tmp_path / "tuned.safetensors")
    again = load(tmp_path / "tuned.safetensors")
    assert torch.equal(again(data[0]), snn(data[0]))
    assert [n.firing for _, n in again.neurons()] == [n.firing for _, n in snn.neurons()]


# A slope that does not look at the membrane leads hidden layers part of the way only.
@pytest.mark.parametrize(
    ("slope", "reaches"), [(Exponential(silence=2), 0.3), (Linear(), 0.9)], ids=repr
)
def test_hidden_layers_learn(
    build: Build, data: Data, slope: Exponential | Linear, reaches: float
) -> None:
    snn = build()
    hidden = freeze_last_layer(snn)
    before = {name: snn.net.get_parameter(name).clone() for name in hidden}
    assert (snn(data[0], 4).argmax(1) == data[1]).float().mean() < 0.2
    history = tune(
        snn, [data] * 30, STDB(slope=slope), steps=4, epochs=3,
        training=Training(learning_rate=3e-2),
    )  # fmt: skip
    assert history.epochs[-1].accuracy > reaches
    assert not any(torch.equal(snn.net.get_parameter(n), old) for n, old in before.items())


@pytest.mark.parametrize("slope", [Exponential(silence=2), Linear()], ids=repr)
def test_it_learns(build: Build, data: Data, slope: Exponential | Linear) -> None:
    history = tune(
        build(), [data] * 20, STDB(slope=slope), steps=4, epochs=2,
        training=Training(learning_rate=1e-2),
    )  # fmt: skip
    assert history.epochs[-1].accuracy > 0.9


def test_the_next_rule_has_its_own_gradient(build: Build, data: Data) -> None:
    snn, fresh = build(), build()
    task = Task(steps=4, criterion=lambda outputs, _: outputs.square().sum())
    prepare(snn, STDB(slope=Exponential()), task)
    for one in (snn, fresh):
        prepare(one, SurrogateBPTT(train_thresholds=False), task)(Batch(*data))
    for found, expected in zip(snn.parameters(), fresh.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None)
        assert found.grad is None or torch.equal(found.grad, expected.grad)


@pytest.mark.parametrize("kind", ["SignedIF", "Burst", "Graded"])
def test_other_neurons_are_refused_by_name(build: Build, data: Data, kind: str) -> None:
    snn = build("signed" if kind == "SignedIF" else "if")
    (_, _), (node, neuron) = snn.neuron_nodes()
    others = {"Burst": Burst(neuron.threshold), "Graded": Graded(neuron.threshold)}
    if kind in others:
        snn.net.set_submodule(str(node.target), others[kind])
    where = node.name if kind in others else "relu"
    before = [p.requires_grad for p in snn.parameters()]
    said = f"{where}.* STDB trains IF and LIF neurons, not {kind}; convert .*build it with neuron="
    with pytest.raises(TuneError, match=said):
        tune(snn, [data], STDB(leak=0.9), steps=4, epochs=1)
    assert not any(isinstance(neuron, LIF) for _, neuron in snn.neurons())
    assert [p.requires_grad for p in snn.parameters()] == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STDB(leak=1.1), "leak must be above 0 and at most 1"),
        (lambda: STDB(leak=0.0), "leak must be above 0 and at most 1"),
        (lambda: STDB(slope=torch.relu), "slope must be Exponential"),
        (lambda: Exponential(alpha=0), "alpha must be above 0"),
        (lambda: Exponential(beta=-1), "beta must be 0 or more"),
        (lambda: Exponential(cutoff=0), "cutoff must be at least 1"),
        (lambda: Exponential(silence=0), "silence must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(TuneError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("", STDB()),
        ("--rule.leak=0.9 --rule.slope.height=0.5", STDB(slope=Linear(height=0.5), leak=0.9)),
        (
            "--rule.slope=Exponential --rule.slope.silence=1",
            STDB(slope=Exponential(silence=1)),
        ),
    ],
)
def test_the_command_line_knows_the_rule(
    options: str, rule: STDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Rule] = []

    def keep(*, rule: Rule = SurrogateBPTT()) -> None:  # noqa: B008
        found.append(rule)

    monkeypatch.setattr(cli, "COMMANDS", {"tune": keep})
    cli.main(["tune", "--rule=STDB", *options.split()])
    assert found == [rule]
