"""Networks whose values and states hold the images of a batch in many ways."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from snn_networks import dyadic, dyadic_images, spiking
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import LIF, Burst, Neuron, Poisson, SpikingNetwork, State
from spiketune.snn.norms import TemporalBatchNorm

Made = tuple[SpikingNetwork, Tensor]


class Windows(nn.Module):
    """Neurons on two windows an image, ``[2 B, 2, 6]``, cut out of four tokens as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.view(x.shape[0], 2, 2, 6).transpose(1, 2).reshape(-1, 2, 6)
        seen = torch.relu(self.first(windows))
        turned = torch.relu(self.second(seen.transpose(0, 1)))  # [2, 2 B, 5]
        return self.head(turned.transpose(0, 1).reshape(x.shape[0], -1))


class TokensFirst(nn.Module):
    """Neurons on tokens before images, ``[4 B, 6]``, as in attention that is not batch-first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(0, 1)
        seen = torch.relu(self.first(tokens.reshape(-1, 6)))
        turned = torch.relu(self.second(seen)).view(4, x.shape[0], 5)
        return self.head(turned.transpose(0, 1).flatten(1))


class Join(nn.Module):
    """Puts an image's halves behind one another along the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([x[:, :2], x[:, 2:]]))


class Joining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.join, self.head = Join(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.join(x)
        return self.head(torch.cat([both[: x.shape[0]], both[x.shape[0] :]], 1))


class Turn(nn.Module):
    """Lets images change places before a neuron, and back behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.flip(0)).flip(0)


class Turning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn, self.head = Turn(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turn(x))


def of(net: nn.Module) -> Made:
    x = dyadic_images(9, 4)
    return spiking(dyadic(net), x), x


class Odd(Neuron):
    """Keeps no membrane of the current's shape."""

    def start(self, current: Tensor) -> State:
        return State(torch.zeros(current.shape[2:]))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        return current.clamp_min(0), state


def odd_state() -> Made:
    x = dyadic_images(9, 3)
    ann = dyadic(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))
    for layer in (ann[0], ann[2]):  # type: ignore[index]
        nn.init.eye_(layer.weight)  # leads differ
    return spiking(ann, x, Odd), x


def _small() -> nn.Module:
    return dyadic(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))


def _of(neuron: type[Neuron], **settings: object) -> Callable[[], Made]:
    def make() -> Made:
        x = dyadic_images(30, 1, 6, 6)
        return spiking(_small(), x, neuron, steps=8, **settings), x

    return make


def _folded() -> Made:
    snn, x = _of(LIF, leak=0.75)()
    return snn.fold(), x


def _before(unit: nn.Module) -> Made:
    """Put a unit before the first neuron."""
    snn, x = _of(LIF, leak=0.75)()
    (node, _) = next(snn.neuron_nodes())
    snn.net.add_submodule("before", unit.double().eval())
    with snn.net.graph.inserting_before(node):
        called = snn.net.graph.call_module("before", (node.args[0],))
    called.meta = dict(node.meta)
    node.replace_input_with(node.args[0], called)
    snn.net.recompile()
    snn.refresh()
    return snn, x


def _factors() -> TemporalBatchNorm:
    norm = TemporalBatchNorm(nn.BatchNorm2d(4), steps=8)
    with torch.no_grad():
        norm.factors.uniform_(0.5, 1.5)
    return norm


def _vit(coding: str) -> Callable[[], Made]:
    def make() -> Made:
        ann = timm.create_model("test_vit", num_classes=5, img_size=32).eval().double()
        x = torch.rand(12, 3, 32, 32).double()
        method = st.Graded(steps=8, coding=coding)  # type: ignore[arg-type]
        return st.to_snn(ann, x, method), x

    return make


STATES: dict[str, Callable[[], Made]] = {
    "leaky": _of(LIF, leak=0.75),
    "folded": _folded,
    "bursts": _of(Burst, ceiling=2.0),
    "norm over time": lambda: _before(_factors()),
    "random spikes": lambda: _before(Poisson(scale=2.0)),
    "transformer, rate": _vit("rate"),
    "transformer, differential": _vit("differential"),
}

__all__ = ["STATES", "Joining", "Made", "TokensFirst", "Turning", "Windows", "odd_state", "of"]
