"""Whole networks beyond ReLU from timm: chunks, batches, files, folding, convergence."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.compare import Meter
from spiketune.snn import Graded, SpikingNetwork

NETWORKS: dict[str, dict[str, Any]] = {"test_vit": {"img_size": 32}, "test_convnext": {}}
each = pytest.mark.parametrize("name", NETWORKS)


@cache
def converted(name: str, coding: str = "differential") -> tuple[nn.Module, SpikingNetwork]:
    torch.manual_seed(0)
    ann = timm.create_model(name, num_classes=5, **NETWORKS[name]).eval()
    method = st.Graded(steps=8, levels=12, spikes_per_step=1, coding=coding)  # type: ignore[arg-type]
    return ann, st.to_snn(ann, torch.rand(4, 3, 32, 32), method)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32)


@each
@torch.no_grad()
def test_the_network_settles_at_the_ann(name: str) -> None:
    ann, snn = converted(name)
    x = images()
    expected = ann(x)
    torch.testing.assert_close(snn.ann(x), expected, rtol=1e-5, atol=1e-5)
    assert not snn.report.refused and snn.report.dense_share < 0.2
    assert {type(unit) for _, unit in snn.neurons()} == {Graded}
    curve = snn.unroll(x, 10)
    errors = [float((now - expected).norm() / expected.norm()) for now in curve]
    assert errors[-1] < 0.005 < errors[0]


@each
@pytest.mark.parametrize("coding", ["differential", "rate"])
@torch.no_grad()
def test_neither_chunks_nor_other_images_change_an_answer(name: str, coding: str) -> None:
    _, snn = converted(name, coding)
    x = images()
    whole = snn.unroll(x, 7)
    for chunk in (1, 2, 5):
        torch.testing.assert_close(snn.unroll(x, 7, chunk=chunk), whole, rtol=1e-5, atol=1e-5)
    alone = torch.cat([snn.unroll(image[None], 7) for image in x], 1)
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(snn(x, 7), whole[-1], rtol=1e-5, atol=1e-5)


@each
@torch.no_grad()
def test_a_file_brings_back_every_bit(name: str, tmp_path: Path) -> None:
    _, snn = converted(name)
    again = st.load(st.save(snn, tmp_path / "net.safetensors"))
    x = images()
    assert torch.equal(again.unroll(x), snn.unroll(x))
    assert [repr(unit) for _, unit in again.neurons()] == [repr(u) for _, u in snn.neurons()]
    assert str(again.report) == str(snn.report)
    torch.testing.assert_close(again.ann(x), snn.ann(x))


@each
@torch.no_grad()
def test_folded_spikes_are_powers_of_two(name: str) -> None:
    snn = deepcopy(converted(name)[1]).double()
    folded, x = snn.fold(), images().double()
    seen: set[float] = set()
    curve = folded.unroll(x, monitor=lambda _, out: seen.update(out.abs().flatten().tolist()))
    assert seen <= {0.0, *(2.0**-k for k in range(12))} and len(seen) > 9
    torch.testing.assert_close(curve, snn.unroll(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded.ann(x), snn.ann(x), rtol=1e-9, atol=1e-9)
    before, after = st.costs(snn), st.costs(folded)
    for unit, fan_out in before.fan_out.items():
        assert torch.equal(fan_out, after.fan_out[unit]), unit


@each
@torch.no_grad()
def test_the_meter_counts_every_step(name: str) -> None:
    _, snn = converted(name)
    meter = Meter(snn, 6)
    meter.unroll(images())
    counts = [meter.accumulates(budget) for budget in range(1, 7)]
    assert counts[0] > 0 and counts == sorted(counts)
    assert meter.spikes_per_neuron(1) <= 1
    found = meter.costs
    linear = sum(macs for kind, macs in found.becomes.values() if kind == "linear")
    assert found.ann_macs == linear + found.stem_macs + found.dense_macs
    # In one step no weight is met more often than in the ANN, sums and functions aside.
    assert counts[0] < 1.5 * found.ann_macs


@torch.no_grad()
def test_rows_and_moved_images_are_counted_once() -> None:
    """Windows make rows of an image, and a permutation puts the images second."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.relu(self.a(x.reshape(-1, 4)))  # [3 B, 6]
            moved = self.b(rows).reshape(-1, 3, 5).transpose(0, 1)  # [3, B, 5]
            out: Tensor = self.c(torch.relu(moved)).mean(0)
            return out

    x = torch.randn(6, 3, 4)
    snn = st.to_snn(Rows().eval(), x, st.Ternary(steps=4, encode=False))
    seen: dict[str, int] = {}

    def count(name: str, out: Tensor) -> None:
        seen[name] = seen.get(name, 0) + int((out != 0).sum())

    snn.unroll(x, 5, monitor=count)
    meter = Meter(snn, 5)
    meter.unroll(x)
    first, second = seen.values()
    assert first > 0 and second > 0
    assert meter.costs.neurons == 3 * 6 + 3 * 5
    assert meter.accumulates(5) == (first * 5 + second * 2) / 6
    torch.testing.assert_close(snn.fold()(x), snn(x))
