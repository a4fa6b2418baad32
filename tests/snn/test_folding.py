"""Folding: the same answers, bare spikes, the same costs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest
import torch
from snn_networks import Residual
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.snn import SpikingNetwork

Forward = Callable[["Body", Tensor], Tensor]


class Body(nn.Module):
    """A stem, something in between, and a head on whatever comes out."""

    def __init__(self, middle: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.middle = middle
        with torch.no_grad():  # channels of very different size, so that a wrong scale shows
            self.stem.weight.mul_(torch.logspace(-1, 1, 8).view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self, torch.relu(self.stem(x)))


def conv(groups: int = 1, kernel: int = 3, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups, **settings)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "plain": lambda: Body(
        lambda m, y: m.head(torch.relu(m.b(torch.relu(m.a(y)))).mean((2, 3))),
        a=conv(stride=2), b=conv(), head=nn.Linear(8, 3),
    ),
    "depthwise": lambda: Body(
        lambda m, y: m.head(m.c(torch.relu(m.b(torch.relu(m.a(y))))).mean((2, 3))),
        a=conv(8), b=conv(2), c=conv(kernel=1), head=nn.Linear(8, 3),
    ),
    "flatten": lambda: Body(lambda m, y: m.head(y.flatten(1)), head=nn.Linear(512, 3)),
    "reshape": lambda: Body(lambda m, y: m.head(y.view(y.shape[0], -1)), head=nn.Linear(512, 3)),
    "average pool": lambda: Body(
        lambda m, y: m.head(functional.avg_pool2d(y, 2).flatten(1)), head=nn.Linear(128, 3)
    ),
    "global pool": lambda: Body(
        lambda m, y: m.head(functional.adaptive_avg_pool2d(y, 1).flatten(1)),
        head=nn.Linear(8, 3),
    ),
    "identity branch": lambda: Body(
        lambda m, y: m.head((torch.relu(m.a(y)) + y + m.b(y)).mean((2, 3))),
        a=conv(), b=conv(kernel=1), head=nn.Linear(8, 3),
    ),
    "concatenation": lambda: Body(
        lambda m, y: m.head(torch.cat([y, torch.relu(m.a(y))], 1).mean((2, 3))),
        a=conv(), head=nn.Linear(16, 3),
    ),
    "gated maximum": lambda: Body(
        lambda m, y: m.head(functional.max_pool2d(m.a(y), 2).mean((2, 3))),
        a=conv(), head=nn.Linear(8, 3),
    ),
    "linear over tokens": lambda: Body(
        lambda m, y: m.head(y.flatten(2).transpose(1, 2)).mean(1), head=nn.Linear(8, 3)
    ),
    "shared weights": lambda: Body(
        lambda m, y: m.head(torch.relu(m.a(torch.relu(m.a(y)))).mean((2, 3))),
        a=conv(), head=nn.Linear(8, 3),
    ),
    "ends in a neuron": lambda: Body(
        lambda m, y: torch.relu(m.head(y.mean((2, 3)))), head=nn.Linear(8, 3)
    ),
    "transposed": lambda: Body(
        lambda m, y: m.head(torch.relu(m.a(y)).mean((2, 3))),
        a=nn.ConvTranspose2d(8, 4, 3, 2), head=nn.Linear(4, 3),
    ),
    "shuffled channels": lambda: Body(
        lambda m, y: m.head(
            m.a(y.reshape(y.shape[0], 2, 4, 8, 8).transpose(1, 2).reshape(y.shape)).mean((2, 3))
        ),
        a=conv(2), head=nn.Linear(8, 3),
    ),
}  # fmt: skip
METHODS = [st.Ternary(steps=8, drive=12), st.Binary(steps=8, per="layer")]


@cache
def converted(name: str, method: st.Ternary | st.Binary, dtype: torch.dtype) -> SpikingNetwork:
    torch.manual_seed(0)
    ann = NETWORKS[name]().to(dtype).eval()
    return st.to_snn(ann, torch.rand(8, 1, 8, 8, dtype=dtype), method)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS, ids=["driven ternary", "binary a layer"])
@torch.no_grad()
def test_a_folded_network_answers_the_same_with_bare_spikes(
    name: str, method: st.Ternary | st.Binary
) -> None:
    snn = converted(name, method, torch.float64)
    folded, x = snn.fold(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    spikes: dict[str, set[float]] = {unit: set() for unit, _ in folded.neurons()}

    def watch(unit: str, out: Tensor) -> None:
        if unit in spikes:
            spikes[unit] |= set(out.unique().tolist())

    curve = folded.unroll(x, 24, monitor=watch)
    torch.testing.assert_close(curve, snn.unroll(x, 24), rtol=1e-12, atol=1e-12)
    assert set().union(*spikes.values()) <= {-1.0, 0.0, 1.0}
    assert all(1.0 in found for found in spikes.values())
    torch.testing.assert_close(folded.ann(x), snn.ann(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "plain", "depthwise", "concatenation"])
@torch.no_grad()
def test_single_precision_agrees_to_five_places(name: str) -> None:
    snn, x = converted(name, METHODS[0], torch.float32), torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(snn.fold()(x), snn(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_cost(name: str) -> None:
    snn = converted(name, METHODS[0], torch.float64)
    before, after = st.costs(snn), st.costs(snn.fold())
    assert before.fan_out.keys() == after.fan_out.keys()
    for unit, fan_out in before.fan_out.items():
        assert torch.equal(fan_out, after.fan_out[unit]), unit
    counted = ("neurons", "stem_macs", "dense_macs", "ann_macs")
    assert all(getattr(before, count) == getattr(after, count) for count in counted)


@torch.no_grad()
def test_folding_leaves_the_original_alone_and_happens_once() -> None:
    snn, x = converted("residual", METHODS[0], torch.float64), torch.rand(3, 1, 8, 8).double()
    before = snn(x)
    folded = snn.fold()
    assert torch.equal(snn(x), before)
    assert not any(unit.folded for _, unit in snn.neurons())
    assert torch.equal(folded.fold()(x), folded(x))


@torch.no_grad()
def test_weights_are_scaled_over_their_input_channels() -> None:
    ann = NETWORKS["plain"]().double().eval()
    snn = st.to_snn(ann, torch.rand(8, 1, 8, 8).double(), st.Ternary())
    theta = next(snn.neurons())[1].threshold.flatten()
    folded = [p for p in snn.fold().parameters() if p.shape == ann.a.weight.shape]
    expected = ann.a.weight * theta.view(1, -1, 1, 1)
    assert any(torch.equal(p, expected) for p in folded)


@torch.no_grad()
def test_folding_through_a_mean_over_the_channels() -> None:
    ann = Body(lambda m, y: m.head(y.mean(1).flatten(1)), head=nn.Linear(64, 3)).double().eval()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)  # as high as there are channels
    snn = st.to_snn(ann, x, st.Ternary())
    torch.testing.assert_close(snn.fold()(x), snn(x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_thresholds_of_single_neurons_fold_too() -> None:
    snn = deepcopy(converted("plain", METHODS[0], torch.float64))
    x = torch.rand(3, 1, 8, 8).double()
    _, unit = next(snn.neurons())
    unit.threshold.data = unit.threshold * torch.linspace(0.5, 1.5, 64).double().view(8, 8)
    torch.testing.assert_close(snn.fold()(x), snn(x), rtol=1e-12, atol=1e-12)
