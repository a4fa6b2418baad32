"""Lee, Delbruck & Pfeiffer 2016 on MNIST: 800 hidden neurons, trained on filtered spike trains.

    python scripts/lee.py --rule lee
    python scripts/lee.py --rule surrogate

Leaky neurons that inhibit each other and send bare spikes, outputs that spike too, their counts
pulled to 20 for the label and 0 for the others; each neuron's threshold and each layer's inhibition
train along. The image acts as a current at every step, theirs comes as spikes. The same network
trained by a surrogate through all steps is the other run. Steps, leak, optimiser and counts are
ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments import Experiment, Moved, Moves, batches, images_of, start, train

import spiketune as st

STEPS = 30


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        rule: how it learns.
        inhibition: ``κ`` at the start.
        epochs: passes over the training images.
    """

    rule: Literal["lee", "surrogate"] = "lee"
    inhibition: float = 0.01
    epochs: int = 15


RULES: dict[str, st.Rule] = {"lee": st.Lee(), "surrogate": st.SurrogateBPTT()}


def network(inhibition: float) -> st.SpikingNetwork:
    """Return the untrained network."""
    neuron = st.LateralNeuron(leak=0.95, inhibition=inhibition, bare=True)
    return st.layered("800", 10, STEPS, (1, 28, 28), neuron=neuron)


def main(settings: Settings) -> None:
    """Train, a row an epoch."""
    pairs, test = images_of("mnist", settings)
    train(
        f"lee_{settings.rule}",
        network(settings.inhibition),
        RULES[settings.rule],
        Moved(*pairs, settings.batch, Moves(shift=2)),
        test=batches(*test),
        training=st.Training(learning_rate=1e-3, loss=st.SpikeCount(hit=20, miss=0)),
        settings=settings,
    )


if __name__ == "__main__":
    start(main, Settings)
