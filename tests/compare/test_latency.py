"""Networks of exact spike times in a sweep: answers and counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.compare import SingleSpikes
from spiketune.snn import PSP, spike_times_of, timed_layers

HORIZON = 10


def network(psp: PSP | None = None) -> st.SpikingNetwork:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(1, 3, 3, stride=2, padding=1, bias=False), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 4, bias=False),
    ]  # fmt: skip
    snn = st.single_spike(layers, (1, 7, 7), window=5, horizon=HORIZON, psp=psp)
    st.fit_times(snn, images()[:20])
    return snn.eval()


def images(count: int = 30) -> Tensor:
    x = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(2))
    return (1.4 * x - 0.4).clamp_min(0)


def loader() -> list[tuple[Tensor, Tensor]]:
    x = images()
    return [(x[:16], torch.arange(16) % 4), (x[16:], torch.arange(14) % 4)]


@pytest.mark.parametrize("psp", [None, st.RampPSP(tau=2.0)], ids=["one knot", "two knots"])
def test_spikes_and_accumulates_are_those_counted_by_hand(psp: PSP | None) -> None:
    snn, x = network(psp), images()
    layer = timed_layers(snn)["conv1"]
    layer.weight.data[1, 0, 0, 0] = 0.0  # meets nothing
    times = spike_times_of(snn, x)
    run = SingleSpikes(snn, [3, 10, 12], x[:1])
    run.answers(x[:16])
    run.answers(x[16:])
    delays = [knot.at for knot in layer.psp.knots]
    for latency in (3, 10, 12):
        spikes = sum(
            int(((one <= latency) & (one < HORIZON)).sum()) for one in times.fired.values()
        )
        adds = 0
        for image in times.arriving["conv1"][:, 0].tolist():
            for y, row in enumerate(image):
                for z, at in enumerate(row):
                    met = sum(
                        int((layer.weight[:, 0, y + 1 - 2 * a, z + 1 - 2 * b] != 0).sum())
                        for a in range(4) for b in range(4)
                        if 0 <= y + 1 - 2 * a < 3 and 0 <= z + 1 - 2 * b < 3
                    )  # fmt: skip
                    come = [at < HORIZON and at + d <= latency and at + d < HORIZON for d in delays]
                    adds += met * sum(come)
        arriving = times.arriving["linear3"]
        for delay in delays:
            come = (arriving < HORIZON) & (arriving + delay <= latency)
            adds += 4 * int((come & (arriving + delay < HORIZON)).sum())
        found = run.spent(latency)
        assert found[0] == pytest.approx(spikes / (30 * (3 * 16 + 4)))
        assert found[1:] == (pytest.approx(adds / 30), 0)


def test_a_sweep_shows_them_beside_other_networks() -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(49, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    rate = st.twin(ann, 4, (1, 7, 7))
    snn = network()
    table = st.sweep({"ann": ann, "rate": rate, "single": snn}, loader(), steps=12)
    rows = table.of("single")
    assert {row.kind for row in rows} == {"single"} and rows[0].method == "direct single spike"
    x, labels = (torch.cat(part) for part in zip(*loader(), strict=True))
    with torch.no_grad():
        curve = snn.unroll(x, 12)
    for step, row in enumerate(rows):
        assert row.top1 == pytest.approx(100 * (curve[step].argmax(1) == labels).float().mean())
    spikes = [row.spikes_per_neuron for row in rows]
    assert spikes == sorted(spikes) and 0.1 < spikes[-1] <= 1  # type: ignore[type-var,operator]
    assert rows[-1].macs == 0 and rows[-1].accumulates == rows[9].accumulates > 0
    assert table.row("rate", 12).kind == "binary"


def test_few_budgets_are_the_rows_of_many() -> None:
    many = st.sweep({"single": network()}, loader(), steps=10)
    few = st.sweep({"single": network()}, loader(), steps=[2, 7])
    for row in few.rows:
        other = many.row("single", row.steps)
        assert (row.top1, row.accumulates) == (other.top1, other.accumulates)
