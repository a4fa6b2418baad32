from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import IF, Burst, Firing, HardReset, SpiketuneError


def by_hand(
    current: np.ndarray, theta: float, most: int, initial: float, ceiling: float | None
) -> np.ndarray:
    """One neuron after another, one step after another."""
    out = np.zeros_like(current)
    for place in np.ndindex(current.shape[1:]):
        v, sent = initial * theta, 0
        for t in range(len(current)):
            v += current[(t, *place)]
            s = min(max(int(np.floor(v / theta)), 0), most)
            if ceiling is not None:
                s = min(s, int(np.floor((t + 1) * ceiling / theta)) - sent)
            v -= theta * s
            sent += s
            out[(t, *place)] = s
    return out


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("ceiling", [None, 1.5])
def test_the_neuron_is_what_its_equation_says(most: int, ceiling: float | None) -> None:
    current = np.random.default_rng(most).normal(0.6, 1.0, (12, 3, 4))
    neuron = Burst(torch.tensor(0.7, dtype=torch.float64), most=most, initial=0.5, ceiling=ceiling)
    spikes, _ = neuron(torch.tensor(current))
    expected = by_hand(current, 0.7, most, 0.5, ceiling)
    np.testing.assert_allclose(spikes.numpy(), 0.7 * expected, atol=1e-12)
    np.testing.assert_array_equal(neuron.events(spikes).numpy(), expected)


def test_one_spike_a_step_is_the_plain_neuron() -> None:
    current = torch.randn(9, 2, 5)
    theta = torch.tensor(0.8)
    plain, _ = IF(theta, initial=0.5)(current)
    assert torch.equal(Burst(theta, most=1, initial=0.5)(current)[0], plain)


def test_the_mean_never_exceeds_the_ceiling() -> None:
    spikes, _ = Burst(torch.tensor(0.35), most=5, ceiling=1.0)(10 * torch.rand(20, 3, 4))
    running = spikes.cumsum(0) / torch.arange(1, 21).view(-1, 1, 1)
    assert bool((running <= 1 + 1e-6).all())


def test_time_may_be_cut_anywhere() -> None:
    current = 3 * torch.rand(8, 2, 3)
    neuron = Burst(torch.tensor(0.9), ceiling=1.1, initial=0.5)
    whole, _ = neuron(current)
    first, state = neuron(current[:3])
    last, _ = neuron(current[3:], state)
    assert torch.equal(torch.cat([first, last]), whole)


def test_training_sees_a_slope() -> None:
    current = torch.rand(4, 2, 3, requires_grad=True)
    Burst(torch.tensor(0.4), initial=0.5)(current)[0].sum().backward()
    assert current.grad is not None and bool((current.grad != 0).any())


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()  # fmt: skip


def converted(images: Tensor) -> st.SpikingNetwork:
    return st.to_snn(net(), images, st.Burst(steps=8))


def test_bursts_are_counted_one_by_one_in_a_network() -> None:
    images = torch.rand(6, 1, 8, 8)
    snn = converted(images)
    table = st.sweep({"burst": snn}, [(images, torch.zeros(6, dtype=torch.long))], [8])
    counted = []

    def note(name: str, spikes: Tensor) -> None:
        neuron = dict(snn.neurons())[name]
        counted.append(float((spikes / neuron.threshold).detach().sum()))

    snn.unroll(images, monitor=note)
    neurons = 6 * (4 * 36 + 4 * 16)
    assert table.rows[0].kind == "burst"
    assert table.rows[0].spikes_per_neuron == pytest.approx(sum(counted) / neurons, rel=1e-5)


def test_it_is_saved_and_folded_unchanged(tmp_path: Path) -> None:
    images = torch.rand(5, 1, 8, 8)
    snn = converted(images)
    again = st.load(st.save(snn, tmp_path / "burst.safetensors"))
    assert torch.equal(again(images), snn(images))
    assert next(n.most for _, n in again.neurons() if isinstance(n, Burst)) == 5
    torch.testing.assert_close(snn.fold()(images), snn(images), atol=1e-5, rtol=1e-4)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SpiketuneError, match="most"):
        Burst(torch.tensor(1.0), most=0)
    with pytest.raises(SpiketuneError, match="most"):
        st.Burst(most=0)
    with pytest.raises(SpiketuneError, match="softly"):
        Burst(torch.tensor(1.0), firing=Firing(reset=HardReset()))
    with pytest.raises(SpiketuneError, match="reset"):
        st.Binary(reset="none")  # type: ignore[arg-type]


def test_a_hard_reset_loses_what_is_above_the_threshold() -> None:
    ann = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        ann[0].weight.fill_(1.0)
        ann[0].bias.fill_(0.0)
    images = torch.tensor([[1.0], [0.6]])
    snn = st.to_snn(ann, images, st.Binary(steps=6, threshold=st.Max(), initial=0.0, reset="hard"))
    # 0.6, 1.2: one spike in two steps where the soft reset sends 0.6 of them.
    assert snn(images).flatten().tolist() == pytest.approx([1.0, 0.5])
