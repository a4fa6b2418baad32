"""At rest a ternary network says, bit for bit, what the ANN with quantised activations says.

The quantised ANN is plain torch, written here: ``Q(z) = θ/L clip(floor(L z/θ + 1/2), 0, L)`` in
the place of each ReLU. Weights, images and thresholds are dyadic, so that no sum rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from snn_networks import dyadic, dyadic_images
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.snn import SignedIF, SpikingNetwork

Activation = Callable[[Tensor], Tensor]
REST = 160  # steps after the drive; the tests assert that the network is quiet by then


class Pools(nn.Module):
    """Max-pools before and behind neurons, average pools, a residual sum, groups, a hidden layer.

    The activation is an argument, so that the same forward serves the ANN and its quantised form.
    """

    def __init__(self, norm: bool, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 8, 1)
        self.hidden = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, act: Activation | None = None) -> Tensor:
        act = act or self.act
        x = functional.max_pool2d(act(self.norm(self.first(x))), 2)
        x = act(self.third(act(self.second(x))) + x)
        x = functional.max_pool2d(functional.avg_pool2d(x, 3, 1, 1, divisor_override=8), 2)
        x = functional.adaptive_avg_pool2d(act(self.wide(x)), 1).flatten(1)
        return self.head(act(self.hidden(x)))


class Quantised:
    """``Q`` with the thresholds of one neuron after another, and the integers it came to."""

    def __init__(self, snn: SpikingNetwork, levels: int) -> None:
        self.thresholds = [unit.threshold.detach() for _, unit in snn.neurons()]
        self.levels = levels
        self.counts: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        theta = self.thresholds[len(self.counts)]
        count = torch.clamp(torch.floor(self.levels * z / theta + 0.5), 0, self.levels)
        self.counts.append(count)
        return count * theta / self.levels


def at_rest(snn: SpikingNetwork, x: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """Return the answer and the spikes each neuron kept; fail if the network is not quiet."""
    thresholds = {name: unit.threshold for name, unit in snn.neurons()}
    sums: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}

    def watch(name: str, out: Tensor) -> None:
        if name in thresholds:
            last[name] = out
            sums[name] = sums.get(name, 0) + (out / thresholds[name]).round().sum(0)

    curve = snn.unroll(x, levels + REST, monitor=watch)
    assert not any(out.any() for out in last.values()), "not quiet yet"
    return curve[-1], list(sums.values())


def seen_before_pooling(counts: list[Tensor]) -> list[Tensor]:
    """The converter pools before the first neuron, the reference behind it."""
    return [functional.max_pool2d(counts[0], 2), *counts[1:]]


@pytest.mark.parametrize("act", [functional.relu, functional.relu6])
@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_at_rest_equal_to_the_quantised_ann_bit_for_bit(
    act: Activation, levels: int, seed: int
) -> None:
    torch.manual_seed(seed)
    ann = dyadic(Pools(norm=False, act=act))
    ann.first.weight.mul_(8)  # so that some activations pass 6
    for layer in (ann.second, ann.third, ann.wide, ann.hidden):
        layer.bias.add_(0.5)  # no layer all silent, whatever the seed
    x = dyadic_images(4, 1, 8, 8)
    snn = st.to_snn(ann, x, st.Ternary(drive=levels, threshold=st.Max(), encode=False))
    for _, unit in snn.neurons():
        unit.threshold.copy_(2 ** unit.threshold.log2().floor())
        assert act is functional.relu or float(unit.threshold.max()) <= 4
    quantise = Quantised(snn, levels)
    expected = ann(x, quantise)
    found, counts = at_rest(snn, x, levels)
    assert torch.equal(found, expected)
    for a, b in zip(counts, seen_before_pooling(quantise.counts), strict=True):
        assert torch.equal(a, b)
    assert sum(float(count.sum()) for count in counts) > 0
    if levels == 16:
        assert len(found.unique()) > 2
        assert any(bool((count == levels).any()) for count in counts), "nothing was clipped"


@pytest.mark.parametrize("act", [functional.relu, functional.relu6])
@pytest.mark.parametrize("levels", [5, 12])
@torch.no_grad()
def test_at_rest_equal_to_the_quantised_ann_with_any_weights(act: Activation, levels: int) -> None:
    ann = Pools(norm=True, act=act).double().eval()
    nn.init.uniform_(ann.norm.running_mean, -0.2, 0.2)
    nn.init.uniform_(ann.norm.running_var, 0.002, 0.01)
    nn.init.uniform_(ann.norm.weight, 0.5, 2.0)
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    rule = st.MSE() if act is functional.relu else st.Max()
    snn = st.to_snn(ann, x, st.Ternary(drive=levels, steps=levels, threshold=rule, encode=False))
    if act is functional.relu6:
        assert float(next(snn.neurons())[1].threshold.max()) == 6.0
    quantise = Quantised(snn, levels)
    expected = ann(x, quantise)
    found, counts = at_rest(snn, x, levels)
    for a, b in zip(counts, seen_before_pooling(quantise.counts), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at_rest(snn.fold(), x, levels)[0], expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_more_levels_come_closer_to_the_ann() -> None:
    ann = Pools(norm=False, act=functional.relu).double().eval()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    x *= torch.linspace(0.1, 1, 6).view(-1, 1, 1, 1)  # dark ones and bright ones
    errors = []
    for levels in (2, 8, 32, 128):
        method = st.Ternary(steps=levels, drive=levels, threshold=st.Max(), encode=False)
        snn = st.to_snn(ann, x, method)
        errors.append(float((snn.unroll(x, levels + REST)[-1] - ann(x)).norm()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.02 * float(ann(x).norm())


@torch.no_grad()
def test_the_limit_is_the_drive() -> None:
    ann = Pools(norm=False, act=functional.relu).eval()
    snn = st.to_snn(ann, torch.rand(4, 1, 8, 8), st.Ternary(drive=6))
    assert {unit.limit for _, unit in snn.neurons() if isinstance(unit, SignedIF)} == {6}
