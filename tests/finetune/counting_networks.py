"""Small networks for rules of counts, and their gradients by loops over pairs of neurons."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Batch, Rule, Task
from spiketune.finetune.losses import Objective, SpikeCount
from spiketune.finetune.rules import prepare
from spiketune.finetune.spike_trains import relative_slopes
from spiketune.snn import Recurrent

Array = NDArray[np.float64]
STEPS, TAU_M, TAU_S, PERIOD, REVIVE = 16, 6.0, 3.0, 1, 0.05
LOSS = SpikeCount(hit=7, miss=1, margin=1)


def network(*layers: nn.Module, shape: tuple[int, ...], recurrent: bool = False,
            gain: float = 1.5) -> st.SpikingNetwork:  # fmt: skip
    """Return a network in double precision, hidden thresholds of 0.7, spikes a step late."""
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            size = layer.weight[0].numel()
            nn.init.uniform_(layer.weight, -gain / size**0.5, 2 * gain / size**0.5)
    kind = st.RefractoryNeuron(leak=1 - 1 / TAU_M, period=PERIOD)
    snn = st.twin(nn.Sequential(*layers), STEPS, shape, neuron=kind)
    st.add_synapses(snn, TAU_S, delayed=True)
    if recurrent:
        st.add_recurrence(snn, 1, scale=1.5)
    for _, neuron in list(snn.neurons())[:-1]:
        neuron.threshold.data.fill_(0.7)
    return snn.double()


def linear(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return layers


def convolutional() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(2, 3, 2, bias=False), nn.ReLU(), nn.Flatten(), *linear(3, 3),
    ]  # fmt: skip


def gradients(snn: st.SpikingNetwork, rule: Rule, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what a rule makes of one batch, by the names of the parameters."""
    snn.zero_grad()
    with Objective(snn, st.Training(loss=LOSS), steps=STEPS) as criterion:
        learn = prepare(snn, rule, Task(steps=STEPS, criterion=criterion))
        outcome = learn(Batch(x, labels))
    assert outcome.loss.isfinite()
    return {name: p.grad.clone() for name, p in snn.net.named_parameters() if p.grad is not None}


class Trains(NamedTuple):
    """The spikes of a layer, times its threshold."""

    sent: Array  # [T, N]
    theta: float

    @property
    def count(self) -> Array:
        return np.asarray((self.sent > 0).sum(0), float)


def pairs(before: Array, after: Trains) -> Array:
    """Return ``e [N, M]`` by a loop over pairs and steps; 0.05 of all arrivals for the silent."""
    steps, found = len(before), np.zeros((after.sent.shape[1], before.shape[1]))
    for i in range(found.shape[0]):
        silent = not after.sent[:, i].any()
        for j in range(found.shape[1]):
            p = q = 0.0
            ref = 0
            for t in range(1, steps):
                p += before[t - 1, j] - p / TAU_S
                q += p / TAU_S - q / TAU_M
                if silent:
                    found[i, j] += REVIVE * p / TAU_S
                if ref > 0:
                    q, ref = 0.0, ref - 1
                if after.sent[t, i]:
                    found[i, j] += q
                    q, ref = 0.0, PERIOD
    return found


class Answer(NamedTuple):
    """Gradients of the matrices of all layers, of recurrent weights, and credits of all counts."""

    matrices: list[Array]
    own: list[Array]
    credits: list[Array]


def reference(
    inputs: Array, layers: list[Trains], matrices: list[Array], owns: list[Array | None],
    label: int, *, factors: bool, whole: bool = True, saturated: str = "zero",
) -> Answer:  # fmt: skip
    """Return the gradient of one image, from the last layer to the first.

    With ``saturated="zero"`` hidden neurons that cannot fire more often are no unknowns.
    """
    goal = np.where(np.arange(len(layers[-1].count)) == label, 7.0, 1.0)
    error = layers[-1].sent.sum(0) - goal
    credit = np.where(np.abs(error) > 1, error, 0.0)
    found = Answer([], [], [])
    for k in reversed(range(len(layers))):
        layer, before = layers[k], layers[k - 1].sent if k else inputs
        factor = np.ones_like(credit)
        if factors:
            slopes = relative_slopes(STEPS, 1 - 1 / TAU_M, PERIOD).numpy().astype(float)
            factor = 1 - layer.count * slopes[layer.count.astype(int)]
        room = np.ones(len(credit), bool)
        if saturated == "zero" and k < len(layers) - 1:
            room = layer.count < STEPS / (PERIOD + 1)
        credit = np.where(room, credit, 0.0)
        alone = full = credit / factor
        own = owns[k]
        if own is not None:
            within = pairs(layer.sent, layer)
            system = np.diag(factor)
            for i in range(len(system)):
                for j in range(len(system)):
                    system[i, j] -= (
                        own[i, j] * within[i, j] / (layer.theta * max(layer.count[j], 1.0))
                    )
            full = np.zeros_like(credit)
            full[room] = np.linalg.solve(system[np.ix_(room, room)].T, credit[room])
            found.own.insert(0, (full if whole else alone)[:, None] * within)
        between = pairs(before, layer)
        found.matrices.insert(0, full[:, None] * between)
        found.credits.insert(0, credit)
        if k:
            sends = layers[k - 1]
            credit = np.where(
                sends.count > 0,
                (full[:, None] * matrices[k] * between).sum(0)
                / (sends.theta * np.maximum(sends.count, 1)),
                0.0,
            )
    return found


def seen(snn: st.SpikingNetwork, x: Tensor) -> list[list[Trains]]:
    """Return the trains of all layers of neurons, for each image."""
    sent: dict[str, Tensor] = {}
    with torch.no_grad():
        snn.unroll(x, STEPS, chunk=STEPS, monitor=sent.__setitem__)
    return [
        [Trains(sent[name][:, b].flatten(1).numpy(), neuron.threshold.item())
         for name, neuron in snn.neurons()]
        for b in range(len(x))
    ]  # fmt: skip


def own_weights(snn: st.SpikingNetwork) -> list[Array | None]:
    return [
        one.weights().detach().numpy() if isinstance(one, Recurrent) else None
        for _, one in snn.neurons()
    ]


def matrix(layers: list[nn.Module], shape: tuple[int, ...]) -> Tensor:
    """Return the matrix ``[out, in]`` of linear layers, differentiable in their weights."""
    size = int(np.prod(shape))
    return nn.Sequential(*layers)(torch.eye(size).double().view(size, *shape)).flatten(1).T
