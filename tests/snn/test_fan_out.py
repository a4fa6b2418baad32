"""What a network costs, counted one spike and one weight at a time."""

from __future__ import annotations

from math import prod

import pytest
import torch
from snn_networks import Residual, spiking
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.snn import SpikingNetwork, costs


def walked(layer: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """Return how many outputs each input of ``layer`` reaches, one unit impulse at a time."""
    found = torch.zeros(shape)
    ones = (layer.weight != 0).float()
    for place in range(prod(shape)):
        impulse = torch.zeros(shape)
        impulse.view(-1)[place] = 1
        out = functional.conv2d(
            impulse[None], ones, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        found.view(-1)[place] = out.sum()
    return found


def macs(layer: nn.Conv2d, height: int, width: int) -> int:
    """Count, by a walk over all inputs, the weights that each meets."""
    return int(walked(layer, (layer.in_channels, height, width)).sum())


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"dilation": 2},
        {"groups": 4, "padding": 2},
        {"stride": (1, 2), "padding": (0, 1), "groups": 2},
    ],
    ids=repr,
)
def test_fan_out_of_a_convolution_equals_a_walk(settings: dict[str, int]) -> None:
    first, second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        second.weight[torch.rand_like(second.weight) < 0.3] = 0
    ann = nn.Sequential(first, nn.ReLU(), second).eval()
    snn = spiking(ann, torch.rand(2, 1, 7, 6))
    found = costs(snn)
    (fan_out,) = found.fan_out.values()
    assert torch.equal(fan_out, walked(second, (4, 7, 6)))
    assert found.stem_macs == macs(first, 7, 6)
    assert found.dense_macs == 0
    assert found.ann_macs == macs(first, 7, 6) + macs(second, 7, 6)
    assert found.neurons == 4 * 7 * 6


class Bottleneck(nn.Module):
    """Expansion, depthwise, linear projection without activation, expansion again."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.project = nn.Conv2d(6, 2, 1)
        self.again = nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(functional.relu6(self.depth(functional.relu6(self.expand(x)))))
        return self.head(functional.relu6(self.again(y)).mean((2, 3)))


def bottleneck() -> SpikingNetwork:
    return st.to_snn(Bottleneck().eval(), torch.rand(8, 2, 5, 5), st.Ternary(steps=4, encode=False))


def test_what_follows_a_linear_bottleneck_multiplies_at_every_step() -> None:
    snn = bottleneck()
    found = costs(snn)
    assert found.stem_macs == 25 * 6 * 2
    assert found.dense_macs == 25 * 4 * 2  # ``again`` sees sums of weighted spikes
    assert found.ann_macs == 25 * (6 * 2 + 2 * 6 + 4 * 2) + 6 * 13**2 + 12
    assert found.neurons == 25 * (6 + 6 + 4)
    first, second, third = found.fan_out.values()
    depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert torch.equal(first, walked(depth, (6, 5, 5)))
    assert second.unique().tolist() == [2.0]
    assert third.unique().tolist() == [3.0]
    became = {row.path: row.became for row in snn.report.rows if row.macs}
    assert became == {
        "expand": "stem", "depth": "linear", "project": "linear",
        "again": "dense", "head": "linear",
    }  # fmt: skip
    assert snn.report.dense_share == pytest.approx(500 / found.ann_macs)


def test_a_sum_of_spikes_and_a_linear_layer_is_dense_and_the_shortcut_counts() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(*size, 1) for size in ((1, 4), (4, 4), (4, 2)))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            return self.c(self.b(y) + y)

    found = costs(spiking(Shortcut().eval(), torch.rand(2, 1, 4, 4)))
    assert found.dense_macs == 16 * 4 * 2
    assert next(iter(found.fan_out.values())).unique().tolist() == [4.0]


def test_costs_neither_run_nor_change_the_network() -> None:
    snn = spiking(Residual().eval(), torch.rand(2, 1, 8, 8))
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    first, second = costs(snn), costs(snn)
    assert first.becomes == second.becomes
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())
    assert all(p.grad is None for p in snn.parameters())
    with torch.no_grad():
        assert costs(snn).stem_macs == first.stem_macs


def test_thresholds_and_precision_do_not_matter() -> None:
    snn = bottleneck()
    before = costs(snn)
    with torch.no_grad():
        for _, unit in snn.neurons():
            unit.threshold.mul_(3)
    after = costs(snn.double())
    assert before.becomes == after.becomes
    for name, fan_out in before.fan_out.items():
        assert torch.equal(fan_out.double(), after.fan_out[name])


def test_half_precision_loses_no_count() -> None:
    ann = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 301, 3, padding=1)).eval()
    snn = st.to_snn(ann, torch.rand(4, 1, 8, 8), st.Binary(steps=4))
    expected, found = costs(snn), costs(snn.bfloat16())
    for name, fan_out in expected.fan_out.items():
        assert int(fan_out.max()) == 9 * 301
        assert torch.equal(found.fan_out[name].double(), fan_out.double())
    assert (found.stem_macs, found.ann_macs) == (expected.stem_macs, expected.ann_macs)
