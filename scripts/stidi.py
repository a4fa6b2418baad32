"""STiDi-BP, convolutional: one spike a neuron, real or binary weights, MNIST or Fashion-MNIST.

    python scripts/stidi.py --images mnist --weights real
    python scripts/stidi.py --images mnist --weights binary --epochs 6 --rate 5e-3
    python scripts/stidi.py --images fashion-mnist --weights real --epochs 15
    python scripts/stidi.py --images fashion-mnist --weights binary --epochs 30
    python scripts/stidi.py --images fashion-mnist --weights binary --scales neuron --still true \
        --epochs 8 --rate 1e-3 --go_on runs/systems/stidi_fashion-mnist_binary.safetensors

The network is 16C5-P2-32C5-P2-10, with potentials that grow linearly (the papers' sizes, potential
and optimiser are not known to us); clothes are shown with their negative. It learns by the exact
gradient of spike times, on the cross-entropy of the race to the first spike; ``--rule
displacement`` and ``--target relative`` are closer to the papers. Binary weights start from the
real ones: run these first. ``--go_on`` goes on from a trained network, in a table of its own.

A row an epoch goes to ``docs/results/systems/stidi_IMAGES_WEIGHTS.csv``; the sweep over latencies
behind the last one to the folder of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from experiments import Experiment, Moved, Moves, batches, images_of, start, train
from torch import Tensor

import spiketune as st
from spiketune.snn import timed_layers

# Much of a piece of clothing is dark: its times are those of the negative.
NEGATIVE = {"mnist": False, "fashion-mnist": True}
# Of the logits: clothes differ by smaller parts of a step than digits do.
SHARPNESS = {"mnist": 40.0, "fashion-mnist": 250.0}
RATE = {"mnist": 1e-2, "fashion-mnist": 5e-3}
MOVES = {"mnist": Moves(shift=2, turn=10.0), "fashion-mnist": Moves(flip=True)}


@dataclass(frozen=True, kw_only=True)
class Settings(Experiment):
    """What may be changed from the command line.

    Attributes:
        images: the data set.
        weights: real, or signs times a learned scale.
        scales: one for each layer, as in the papers, or for each neuron.
        rule: what weights and earlier spikes get of the gradient.
        target: softmax race, or the papers' targets relative to the first spike.
        rate: highest learning rate; 0.01 for MNIST, 0.005 for Fashion-MNIST by default.
        still: leave the images where they are, neither moved nor mirrored.
        go_on: a trained network to go on from; its rows go to a table of their own.
    """

    images: Literal["mnist", "fashion-mnist"] = "mnist"
    weights: Literal["real", "binary"] = "real"
    scales: Literal["layer", "neuron"] = "layer"
    rule: Literal["exact", "displacement", "s4nn"] = "exact"
    target: Literal["race", "relative"] = "race"
    rate: float | None = None
    still: bool = False
    go_on: Path | None = None


TARGETS: dict[str, st.finetune.Loss] = {
    "race": st.MeanCrossEntropy(),
    "relative": st.RelativeTarget(gamma=0.05, lead=0.02),
}


def network(settings: Settings) -> st.SpikingNetwork:
    """Return the untrained network."""
    kind = st.FirstSpikeNeuron(
        binary=settings.weights == "binary",
        scales=settings.scales,
        sharpness=SHARPNESS[settings.images],
        negative=NEGATIVE[settings.images],
    )
    return st.layered("16C5-P2-32C5-P2", 10, 32, (1, 28, 28), neuron=kind)


def name_of(settings: Settings, weights: str) -> str:
    """Return the name of a run, its choices where they are not the usual ones."""
    chosen = [settings.rule] * (settings.rule != "exact")
    chosen += [settings.target] * (settings.target != "race")
    chosen += ["scales"] * (settings.scales == "neuron" and weights == "binary")
    chosen += ["still"] * (settings.still and weights == settings.weights)
    chosen += ["on"] * (settings.go_on is not None)
    return "_".join(["stidi", settings.images, weights, *chosen])


def prepare(snn: st.SpikingNetwork, images: Tensor, settings: Settings) -> None:
    """Fit first weights to some images; binary ones start from the real ones."""
    st.fit_times(snn, images)
    if settings.weights == "binary":
        trained = settings.work / f"{name_of(settings, 'real')}.safetensors"
        if not trained.exists():
            raise SystemExit(f"binary weights start from {trained}; run with --weights real first")
        layers = timed_layers(st.load(trained))
        for place, layer in timed_layers(snn).items():
            layer.set_weight(layers[place].weight)
        st.fit_times(snn, images)


def take_over(snn: st.SpikingNetwork, path: Path) -> None:
    """Begin with the weights of a trained network, and its scales: each neuron with its layer's."""
    trained = timed_layers(st.load(path))
    with torch.no_grad():
        for place, layer in timed_layers(snn).items():
            other = trained.get(place)
            fits = other is not None and other.weight.shape == layer.weight.shape
            finer = fits and other.scale.numel() > layer.scale.numel()
            if not fits or finer or other.binary != layer.binary:
                raise SystemExit(f"{path} has other layers, or other weights, than {place} here")
            layer.weight.copy_(other.weight)
            if layer.log_scale is not None:
                layer.log_scale.copy_(other.scale.log())


def main(settings: Settings) -> None:
    """Train, a row an epoch, and sweep the latencies."""
    name = name_of(settings, settings.weights)
    if settings.go_on is not None and name == settings.go_on.stem:
        name += "_on"
    snn = network(settings)
    pairs, test = images_of(settings.images, settings, snn)
    if settings.go_on is None:
        prepare(snn, pairs[0][:64], settings)
    else:
        take_over(snn, settings.go_on)
    training = st.Training(
        optimizer="adamw", learning_rate=settings.rate or RATE[settings.images],
        weight_decay=1e-3, warmup=0.05, clip_grad=1.0, loss=TARGETS[settings.target],
    )  # fmt: skip
    moved = Moves() if settings.limit or settings.still else MOVES[settings.images]
    loader = Moved(*pairs, settings.batch, lambda x: moved(x).clamp(0, 1))
    snn = train(
        name, snn, st.STiDi(form=settings.rule), loader,
        test=batches(*test), training=training, settings=settings,
    )  # fmt: skip
    with torch.no_grad():
        table = st.sweep({name: snn}, batches(*test), steps=snn.steps)
    table.save(settings.results / name)


if __name__ == "__main__":
    start(main, Settings)
