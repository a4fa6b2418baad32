"""NA on MNIST: the paper's net 15C5-P2-40C5-P2-300-10 at T = 5, and the same by a surrogate.

    python scripts/na_mnist.py --rule na
    python scripts/na_mnist.py --rule surrogate

As in Yang, Zhang & Li 2021: leaky neurons with a time constant of 5 steps and a hard reset,
synapses of 2 steps, neurons for outputs, whose filtered spikes are pulled to those of a neuron that
always fires or never; AdamW at 5e-4, times 0.985 an epoch; shifts of up to 4 pixels, turns of up to
15 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from experiments import Experiment, Moved, Moves, batches, images_of, start, train
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.finetune import Batch, Criterion, Loss, Scene, register_loss
from spiketune.snn import Firing, HardReset

STEPS, TAU_MEMBRANE, TAU_SYNAPSE = 5, 5.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        rule: how it learns; ``reference`` is NA as the authors' program has it.
        epochs: 200 in the paper.
        work: folder for checkpoints.
        results: folder for the tables.
    """

    rule: Literal["na", "reference", "surrogate"] = "na"
    epochs: int = 200
    work: Path = Path("runs/na")
    results: Path = Path("docs/results/na")


RULES: dict[str, st.Rule] = {
    "na": st.NA(),
    "reference": st.NA.reference(),
    "surrogate": st.SurrogateBPTT(train_thresholds=False),
}


@dataclass(frozen=True, kw_only=True)
class Kernel(Loss):
    """``L = Σ_t ½ |a[t] - ā[t]|²``, the mean over images; ``ā`` filtered like the outputs ``a``.

    The neuron of the label is to fire at every step, the others never.
    """


@register_loss(Kernel)
def kernel(loss: Kernel, scene: Scene) -> Criterion:
    """Return the criterion."""

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        ones = outputs.new_ones(len(outputs), 1, 1)
        always, _ = st.Synapse(tau=TAU_SYNAPSE)(ones)
        goal = always * functional.one_hot(batch.labels, outputs.shape[-1])
        return (outputs - goal).square().sum() / (2 * outputs.shape[1])

    return criterion


class SumPool(nn.Module):
    """Twice-two windows, summed and weighed by 1.1; several times faster than ``AvgPool2d``."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``[B, C, H, W]``."""
        rows = x[..., ::2, :] + x[..., 1::2, :]
        return 1.1 * (rows[..., ::2] + rows[..., 1::2])


def network(seed: int) -> st.SpikingNetwork:
    """Return the untrained network."""
    torch.manual_seed(seed)
    ann = nn.Sequential(
        nn.Conv2d(1, 15, 5, bias=False), nn.ReLU(), SumPool(),
        nn.Conv2d(15, 40, 5, bias=False), nn.ReLU(), SumPool(), nn.Flatten(),
        nn.Linear(640, 300, bias=False), nn.ReLU(), nn.Linear(300, 10, bias=False), nn.ReLU(),
    )  # fmt: skip
    for layer in ann:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    firing = Firing(reset=HardReset(), strict=True)
    neuron = st.LeakyNeuron(leak=1 - 1 / TAU_MEMBRANE, firing=firing)
    snn = st.twin(ann, STEPS, (1, 28, 28), neuron=neuron)
    st.add_synapses(snn, TAU_SYNAPSE, output=True)
    return snn


def training() -> st.Training:
    """Return the paper's settings of the optimisation."""
    return st.Training(
        optimizer="adamw", learning_rate=5e-4, optimizer_options={"betas": (0.9, 0.999)},
        schedule="step", schedule_options={"decay_epochs": 1, "decay_rate": 0.985},
        warmup=0.0, clip_grad=1.0, loss=Kernel(),
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Train, a row an epoch."""
    pairs, test = images_of("mnist", settings)
    train(
        settings.rule,
        network(settings.seed),
        RULES[settings.rule],
        Moved(*pairs, settings.batch, Moves(shift=4, turn=15.0)),
        test=batches(*test),
        training=training(),
        settings=settings,
    )


if __name__ == "__main__":
    start(main, Settings)
