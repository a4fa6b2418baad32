"""TSSL-BP on Fashion-MNIST: the paper's net 32C5-P2-64C5-P2-1024-10 at T = 5.

    python scripts/tssl.py --rule tssl
    python scripts/tssl.py --epochs 4 --rate 5e-4 --go_on runs/systems/tssl_tssl.safetensors
    python scripts/tssl.py --rule surrogate

As in Zhang & Li 2020: leaky neurons with a time constant of 5 steps and a hard reset, synapses of
3 steps, neurons for outputs, whose filtered spikes are pulled to those of a neuron that fires at
every step but the first, or never; AdamW, gradients clipped at 1. Theirs ran for 150 epochs
and left out a fifth of the neurons at random; here images are shifted and mirrored instead, and the
rate falls along a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments import Experiment, Moved, Moves, batches, images_of, start, train

import spiketune as st
from spiketune.snn import Firing, HardReset, Sigmoid

STEPS, TAU_MEMBRANE, TAU_SYNAPSE = 5, 5.0, 3.0
# Of the first weights: as torch draws them, hardly a neuron would fire. The linear layers begin
# with the variance of Kaiming's.
GAIN = (5.0, 5.0, 2.45, 2.45)


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        rule: how it learns.
        epochs: 150 in the paper.
        rate: highest learning rate.
        go_on: file of a trained network to start from, in a run of its own.
    """

    rule: Literal["tssl", "surrogate"] = "tssl"
    epochs: int = 12
    rate: float = 2e-3
    go_on: Path | None = None


RULES: dict[str, st.Rule] = {
    "tssl": st.TSSL(),
    "surrogate": st.SurrogateBPTT(surrogate=Sigmoid(alpha=5.0), train_thresholds=False),
}


def network() -> st.SpikingNetwork:
    """Return the untrained network."""
    firing = Firing(reset=HardReset(), strict=True)
    return st.layered(
        "32C5-P2-64C5-P2-1024", 10, STEPS, (1, 28, 28), gain=GAIN,
        neuron=st.LeakyNeuron(leak=1 - 1 / TAU_MEMBRANE, firing=firing),
        synapses=st.Synapses(tau=TAU_SYNAPSE, output=True),
    )  # fmt: skip


def training(rate: float) -> st.Training:
    """Return the settings of the optimisation."""
    return st.Training(
        optimizer="adamw", learning_rate=rate, clip_grad=1.0,
        loss=st.SpikeTrain(hit=(0, 1, 1, 1, 1)),
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Train, a row an epoch."""
    pairs, test = images_of("fashion-mnist", settings)
    train(
        f"tssl_{settings.rule}" + "_on" * (settings.go_on is not None),
        network() if settings.go_on is None else st.load(settings.go_on).train(),
        RULES[settings.rule],
        Moved(*pairs, settings.batch, Moves(shift=1, flip=True)),
        test=batches(*test),
        training=training(settings.rate),
        settings=settings,
    )


if __name__ == "__main__":
    start(main, Settings)
