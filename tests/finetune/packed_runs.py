"""What one batch leaves behind: gradients, and the bytes held between the ways forward and back."""

from __future__ import annotations

import torch
from live_memory import LiveMemory
from torch import Tensor

from spiketune.finetune import Batch, Rule, Task
from spiketune.finetune.rules import prepare
from spiketune.snn import SpikingNetwork, neuron_path

STEPS = 7


def criterion(outputs: Tensor, batch: Batch) -> Tensor:
    """No step's gradient is that of another."""
    weights = torch.arange(1.0, 1 + len(outputs)).view(-1, 1, 1)
    return (weights * outputs).sum(0).square().mean()


def gradients(snn: SpikingNetwork, rule: Rule, images: Tensor) -> dict[str, Tensor]:
    snn.zero_grad()
    task = Task(steps=STEPS, criterion=criterion)
    prepare(snn, rule, task)(Batch(images, torch.zeros(len(images))))
    return {name: p.grad.clone() for name, p in snn.named_parameters() if p.grad is not None}


def held(snn: SpikingNetwork, rule: Rule, images: Tensor) -> int:
    """Return how many bytes are there between the way forward and the way back."""
    found = []

    def look(outputs: Tensor, batch: Batch) -> Tensor:
        found.append(memory.now)
        return criterion(outputs, batch)

    learn = prepare(snn, rule, Task(steps=STEPS, criterion=look))
    with LiveMemory() as memory, neuron_path("eager"):
        learn(Batch(images, torch.zeros(len(images))))
    return found[0]
