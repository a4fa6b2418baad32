"""Fan-outs beside what was sent, and the meter on both paths, against NumPy and convolutions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.compare import Meter
from spiketune.compare.fan_out import FanOut
from spiketune.snn import SignedIF, SpikingNetwork, neuron_path

MakeSpiking = Callable[..., SpikingNetwork]


def met(fan_out: Tensor, sent: Tensor) -> list[float]:
    values, weights = FanOut(fan_out).beside(sent)
    return np.einsum("tkn,n->t", values.double().numpy(), weights.double().numpy()).tolist()


def numpy_met(pattern: str, sent: Tensor, fan_out: Tensor) -> list[float]:
    return np.einsum(pattern, sent.double().numpy(), fan_out.double().numpy()).tolist()


def test_every_image_meets_the_same() -> None:
    sent, fan_out = torch.randint(3, (4, 5, 2, 3)), torch.randint(9, (2, 3))
    assert met(fan_out, sent) == numpy_met("tbcx,cx->t", sent, fan_out)


def test_a_reshape_made_rows_of_each_image() -> None:
    sent, fan_out = torch.randint(3, (4, 5 * 3, 7)), torch.randint(9, (3, 7))
    expected = numpy_met("tbkc,kc->t", sent.view(4, 5, 3, 7), fan_out)
    assert met(fan_out, sent) == expected


@pytest.mark.parametrize("images", [1, 5])
def test_images_may_lie_behind_another_dimension(images: int) -> None:
    sent, fan_out = torch.randint(3, (4, 6, images, 7)), torch.randint(9, (6, 1, 7))
    assert met(fan_out, sent) == numpy_met("tlbc,lc->t", sent, fan_out[:, 0])


def test_channels_may_lie_last_and_batches_change() -> None:
    one = FanOut(fan_out := torch.randint(9, (3, 4, 5)))
    for images, last in ((2, True), (2, False), (3, True), (1, False)):
        sent = torch.randint(3, (4 * images, 3, 4, 5))
        layout = torch.channels_last if last else torch.contiguous_format
        sent = sent.to(memory_format=layout).unflatten(0, (4, images))
        values, weights = one.beside(sent)
        assert values.data_ptr() == sent.data_ptr()  # nothing is copied
        found = np.einsum("tkn,n->t", values.numpy(), weights.numpy())
        assert found.tolist() == numpy_met("tbchw,chw->t", sent, fan_out)


@pytest.mark.parametrize("path", ["eager", "compiled"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@torch.no_grad()
def test_both_paths_count_alike(
    path: str, layout: torch.memory_format, spiking: MakeSpiking
) -> None:
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1, groups=2)
    )
    ann[2].weight[torch.rand_like(ann[2].weight) < 0.3] = 0
    x = torch.rand(3, 1, 9, 9).to(memory_format=layout)
    snn = spiking(ann, x, SignedIF).to(memory_format=layout)
    found: dict[str, list[Tensor]] = defaultdict(list)
    with neuron_path(path):
        meter = Meter(snn, 11)
        meter.unroll(x)
        snn.unroll(x, 11, monitor=lambda name, out: found[name].append(out))
    ((parts),) = found.values()
    events = (torch.cat(parts) != 0).double()
    ones = (ann[2].weight != 0).double()
    sums = functional.conv2d(events.flatten(0, 1), ones, None, 2, 1, groups=2)
    steps = sums.unflatten(0, (11, 3)).flatten(1).sum(1)
    assert events.sum() > 0
    for budget in range(1, 12):
        assert meter.spikes_per_neuron(budget) == events[:budget].sum().item() / (3 * 4 * 81)
        assert meter.accumulates(budget) == steps[:budget].sum().item() / 3


@torch.no_grad()
def test_both_paths_count_several_spikes_a_step_alike() -> None:
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 4)
    for spikes in (1, 3):
        snn = st.to_snn(ann, x, st.Graded(levels=6, spikes_per_step=spikes, steps=2))
        found = []
        for path in ("eager", "compiled"):
            with neuron_path(path):
                meter = Meter(snn, 2)
                meter.unroll(x)
            found.append([(meter.spikes_per_neuron(t), meter.accumulates(t)) for t in (1, 2)])
        assert found[0] == found[1] and found[0][1][0] > 0
        assert all(met == pytest.approx(24 * sent) for sent, met in found[0])
