"""The meter against loops that look up every weight that every spike meets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.compare import Meter
from spiketune.snn import IF, SignedIF, SpikingNetwork

STEPS = 11  # longer than one chunk of the time loop, and no multiple of it
MakeSpiking = Callable[..., SpikingNetwork]
Array = NDArray[np.bool_]


class Residual(nn.Module):
    """Stride, padding, groups, a residual sum, average pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.narrow = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.narrow(torch.relu(self.first(x))))
        x = torch.relu(self.same(x) + x)
        out: Tensor = self.head(functional.avg_pool2d(x, 2).flatten(1))
        return out


def met_by_conv(spikes: Array, weight: Array, stride: int, padding: int, groups: int) -> int:
    """Count pairs of a spike and a non-zero weight, place by place."""
    _, height, width = spikes.shape
    outputs, inputs, kernel, _ = weight.shape
    rows = (height + 2 * padding - kernel) // stride + 1
    columns = (width + 2 * padding - kernel) // stride + 1
    count = 0
    for out in range(outputs):
        base = out // (outputs // groups) * inputs
        for row in range(rows):
            for column in range(columns):
                for i in range(kernel):
                    for j in range(kernel):
                        y, x = row * stride + i - padding, column * stride + j - padding
                        if 0 <= y < height and 0 <= x < width:
                            seen = spikes[base : base + inputs, y, x]
                            count += int((seen & weight[out, :, i, j]).sum())
    return count


def recorded(snn: SpikingNetwork, x: Tensor, steps: int) -> list[Array]:
    found: dict[str, list[Tensor]] = defaultdict(list)
    snn.unroll(x, steps, monitor=lambda name, out: found[name].append(out))
    return [(torch.cat(parts) != 0).numpy() for parts in found.values()]


@pytest.mark.parametrize("neuron", [IF, SignedIF])
@torch.no_grad()
def test_counts_equal_a_walk_over_every_spike(neuron: type, spiking: MakeSpiking) -> None:
    ann = Residual().eval()
    for weight in ann.parameters():
        weight[torch.rand_like(weight) < 0.2] = 0
    batches = [torch.rand(2, 1, 8, 8), torch.rand(1, 1, 8, 8)]
    snn = spiking(ann, batches[0], neuron)
    meter = Meter(snn, STEPS)
    spikes, accumulates = np.zeros(STEPS, int), np.zeros(STEPS, int)
    narrow, same, head = ((layer.weight != 0).numpy() for layer in (ann.narrow, ann.same, ann.head))
    everywhere = np.ones((1, 8, 8), bool)
    stem = met_by_conv(everywhere, (ann.first.weight != 0).numpy(), 1, 1, 1)
    for x in batches:
        meter.unroll(x)
        first, second, third = recorded(snn, x, STEPS)
        for t in range(STEPS):
            for a, b, c in zip(first[t], second[t], third[t], strict=True):
                spikes[t] += a.sum() + b.sum() + c.sum()
                accumulates[t] += met_by_conv(a, narrow, 2, 1, 2) + met_by_conv(b, same, 1, 1, 1)
                accumulates[t] += b.sum()  # each spike of the shortcut is added once
                for channel, y, z in np.argwhere(c):  # a 4x4 map, pooled to 2x2, flattened
                    accumulates[t] += head[:, channel * 4 + y // 2 * 2 + z // 2].sum()
    neurons = 4 * 64 + 4 * 16 + 4 * 16
    assert meter.images == 3 and spikes.sum() > 0
    for budget in range(1, STEPS + 1):
        assert meter.spikes_per_neuron(budget) == spikes[:budget].sum() / (3 * neurons)
        assert meter.accumulates(budget) == accumulates[:budget].sum() / 3
        assert meter.macs(budget) == stem  # once


@torch.no_grad()
def test_every_batch_starts_at_the_first_step(spiking: MakeSpiking, classifier: nn.Module) -> None:
    x = torch.rand(4, 1, 8, 8)
    snn = spiking(classifier, x)
    once, twice = Meter(snn, STEPS), Meter(snn, STEPS)
    once.unroll(x)
    twice.unroll(x)
    twice.unroll(x)
    for budget in range(1, STEPS + 1):
        assert once.accumulates(budget) == twice.accumulates(budget)
        assert once.spikes_per_neuron(budget) == twice.spikes_per_neuron(budget)


@torch.no_grad()
def test_watching_changes_no_answer(spiking: MakeSpiking, classifier: nn.Module) -> None:
    x = torch.rand(4, 1, 8, 8)
    snn = spiking(classifier, x, drive=3)
    assert torch.equal(Meter(snn, STEPS).unroll(x), snn.unroll(x, STEPS))


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )


@torch.no_grad()
def test_a_maximum_of_spikes_feeds_weights_but_is_no_neuron() -> None:
    x = torch.rand(2, 1, 8, 8)
    snn = st.twin(pooled(), 4, (1, 8, 8)).eval()
    for _, unit in snn.neurons():
        unit.threshold.fill_(0.25)
    meter = Meter(snn, STEPS)
    meter.unroll(x)
    spikes, maxima = recorded(snn, x, STEPS)
    assert spikes.sum() > 0
    assert meter.spikes_per_neuron(STEPS) == spikes.sum() / (2 * 128)
    assert meter.accumulates(STEPS) == maxima.sum() * 3 / 2


@torch.no_grad()
def test_what_a_function_feeds_is_dense(spiking: MakeSpiking) -> None:
    x = torch.rand(2, 1, 8, 8)
    snn = spiking(pooled(), x)
    meter = Meter(snn, STEPS)
    meter.unroll(x)
    (spikes,) = recorded(snn, x, STEPS)
    assert meter.spikes_per_neuron(STEPS) == spikes.sum() / (2 * 128)
    assert meter.accumulates(STEPS) == spikes.sum() / 2  # each enters the maximum's sum once
    # The stem once; at every step a value for each window, and the linear layer behind.
    assert meter.macs(STEPS) == 22**2 * 2 + (32 + 32 * 3) * STEPS


@torch.no_grad()
def test_several_spikes_in_a_step_are_counted_one_by_one() -> None:
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4)
    snn = st.to_snn(ann, x, st.Graded(levels=6, spikes_per_step=3, steps=2))
    ((_, neuron),) = snn.neurons()
    current = ann[0](x)
    expected, missing = 0, current.clamp_min(0) / neuron.threshold
    for _ in range(3):
        sizes = torch.tensor([0.0] + [2.0**-k for k in range(6)])
        nearest = (missing.abs().unsqueeze(-1) - sizes).abs().argmin(-1)
        missing = missing - sizes[nearest] * missing.sign()
        expected += int((nearest > 0).sum())
    for network in (snn, snn.fold()):
        meter = Meter(network, 1)
        meter.unroll(x)
        assert meter.spikes_per_neuron(1) == expected / (5 * 8)
        assert meter.accumulates(1) == expected * 3 / 5


@pytest.mark.parametrize(
    ("pool", "windows"),
    [
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 2, 1, 0)),
        (nn.AvgPool2d(2, 2, ceil_mode=True), (2, 2, 0, 1)),
        (nn.AvgPool2d(3, divisor_override=1), (3, 3, 0, 0)),
        (nn.AdaptiveAvgPool2d(2), (5, 4, 0, 0)),
    ],
)
@torch.no_grad()
def test_uneven_average_pools(
    pool: nn.Module, windows: tuple[int, int, int, int], spiking: MakeSpiking
) -> None:
    ann = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(1, 5, 1))
    x = torch.rand(2, 1, 9, 9)
    snn = spiking(ann, x)
    meter = Meter(snn, STEPS)
    meter.unroll(x)
    (spikes,) = recorded(snn, x, STEPS)
    kernel, stride, padding, extra = windows
    maps = functional.pad(torch.from_numpy(spikes).float().flatten(0, 1), (0, extra, 0, extra))
    sums = functional.conv2d(maps, torch.ones(1, 1, kernel, kernel), None, stride, padding)
    assert meter.accumulates(STEPS) == sums.sum().item() * 5 / 2
