"""SLAYER on MNIST and on saccade events: 12C5-P2-64C5-P2-10 of spike response neurons.

    python scripts/slayer.py
    python scripts/slayer.py --data saccades
    python scripts/slayer.py --data saccades --delays true

As in Shrestha & Orchard 2018: alpha kernels, pools that sum, the escape rate in the place of the
spike's derivative, a loss of spike counts, Adam; and, for events, axonal delays. Theirs are 300
steps of 1 ms and neurons in the pools too; here time constants and counts are scaled to ``STEPS``,
images come as constant currents, not as spikes, the rate falls along a cosine, images are shifted,
and of the events 2 x 2 pixels are added up before the first layer, whose kernels fit what remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments import Experiment, Moved, Moves, images_of, start, train
from torch import Tensor

import spiketune as st

STEPS = {"mnist": 20, "saccades": 30}
TAU, LONGEST = 3.0, 8.0
# Of the weights as torch draws them, the convolutions' and the last ones: a response sums to 8
# times its peak, and outputs that begin with far too many spikes silence the layers before them.
GAIN = {"mnist": (0.8, 0.9, 0.16), "saccades": (1.2, 1.3, 0.11)}


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        data: images as they are, or what an event sensor sees of them in three saccades.
        delays: give every channel a delay that it learns, from 0 to 8 steps at the start.
    """

    data: Literal["mnist", "saccades"] = "mnist"
    delays: bool = False


LAYERS = {"mnist": "12C5-P2-64C5-P2", "saccades": "P2-12C5p1-P2-64C3p1-P2"}
SHAPE = {"mnist": (1, 28, 28), "saccades": (2, 34, 34)}


def network(settings: Settings) -> st.SpikingNetwork:
    """Return the untrained network."""
    data = settings.data
    delays = st.Delays(start=(0.0, LONGEST), maximum=LONGEST) if settings.delays else None
    return st.layered(
        LAYERS[data], 10, STEPS[data], SHAPE[data], pool="sum", gain=GAIN[data],
        neuron=st.SRMNeuron(tau_synapse=TAU), delays=delays, frames=data == "saccades",
    )  # fmt: skip


class InOrder:
    """Test images in their order, made into what the network takes batch by batch."""

    def __init__(self, images: Tensor, labels: Tensor, change: Moves | Seen, size: int) -> None:
        self.parts = list(zip(images.split(size), labels.split(size), strict=True))
        self.change, self.dataset = change, range(len(images))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.parts)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Start a pass."""
        for images, labels in self.parts:
            yield self.change(images), labels


@dataclass(frozen=True)
class Seen:
    """What an event sensor sees of moved images.

    Attributes:
        moves: before they are shown to it.
    """

    moves: Moves

    def __call__(self, images: Tensor) -> Tensor:
        """Return frames of events ``[B, T, 2, 34, 34]``."""
        return st.saccades(self.moves(images).clamp(0, 1)).float()


def training() -> st.Training:
    """Return the settings of the optimisation."""
    return st.Training(
        optimizer="adamw", learning_rate=3e-3, weight_decay=0.0,
        loss=st.SpikeCount(hit=8, miss=0),
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Train, a row an epoch."""
    scaled = {"mean": (0.0,), "std": (1.0,)}
    pairs, test = images_of("mnist", settings, cfg=scaled)
    shifted, still = Moves(shift=2), Moves()
    events = settings.data == "saccades"
    change = (Seen(shifted), Seen(still)) if events else (shifted, still)
    train(
        f"slayer_{settings.data}" + "_delays" * settings.delays,
        network(settings),
        st.SLAYER(),
        Moved(*pairs, settings.batch, change[0]),
        test=InOrder(*test, change[1], 250),
        training=training(),
        settings=settings,
    )


if __name__ == "__main__":
    start(main, Settings)
