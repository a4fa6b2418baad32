"""Losses and rules ask a neuron itself how it charges: one of the user's own is known too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import OTTT, RMP, Batch, IMLoss, Rule, SurrogateBPTT, Task
from spiketune.finetune.losses import Loss, Objective
from spiketune.finetune.rules import prepare
from spiketune.snn import LIF, Charging, Neuron, SpikingNetwork

STEPS = 5


class Halving(Charging):
    """``v = v/2 + c``, which ``LIF`` with a leak of 1/2 is too."""

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        return membrane / 2 + current

    def keeps(self) -> Tensor:
        return torch.tensor(0.5)


def network(neuron: type[Halving] | None) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    snn = st.twin(nn.Sequential(*layers).double(), STEPS, (4,), leak=0.5)
    if neuron is not None:
        for node, old in snn.neuron_nodes():
            made: Neuron = neuron(old.threshold, firing=old.firing)
            snn.net.set_submodule(str(node.target), made)
        snn.refresh()
    return snn


def gradients(snn: SpikingNetwork, rule: Rule, loss: Loss) -> dict[str, Tensor]:
    x = 6 * torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(x, torch.arange(8) % 3)
    with Objective(snn, st.Training(loss=loss), steps=STEPS) as criterion:
        learn = prepare(snn, rule, Task(steps=STEPS, criterion=criterion))
        learn(batch)
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


def test_a_neuron_of_ones_own_learns_as_its_twin_does() -> None:
    assert all(isinstance(neuron, LIF) for _, neuron in network(None).neurons())
    cases: list[tuple[Rule, Loss]] = [
        (SurrogateBPTT(), RMP(weight=2.0)),
        (SurrogateBPTT(), IMLoss(weight=2.0)),
        (OTTT(), st.MeanCrossEntropy()),
    ]
    for rule, loss in cases:
        found = gradients(network(Halving), rule, loss)
        expected = gradients(network(None), rule, loss)
        assert found.keys() == expected.keys() and len(found) == 8
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)
            assert bool(gradient.any())
