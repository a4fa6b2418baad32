"""Layers that hear themselves against a NumPy loop over pairs; reservoirs against their chances."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import Recurrent, Refractory, SpiketuneError, add_recurrence, reservoir

quick = settings(max_examples=40, deadline=None, derandomize=True)
STEPS = 12


@given(
    some.integers(0, 2**32 - 1), some.integers(1, 6), some.floats(1, 6), some.integers(0, 3),
    some.booleans(),
)  # fmt: skip
@quick
def test_it_equals_a_numpy_loop(seed: int, size: int, tau: float, period: int, cut: bool) -> None:
    rng = np.random.default_rng(seed)
    current, weight = rng.normal(0.3, 1, (STEPS, size)), rng.normal(0, 2, (size, size))
    wiring, theta, leak = rng.random((size, size)) < 0.6, rng.uniform(0.5, 2, size), 0.8
    spikes, v = np.zeros((STEPS, size)), np.zeros(size)
    ep, ref = np.zeros(size), np.zeros(size, int)
    for t in range(STEPS):
        for i in range(size):
            ep[i] -= ep[i] / tau
            for j in range(size):
                if t and wiring[i, j]:
                    ep[i] += weight[i, j] * theta[j] * spikes[t - 1, j]
            v[i] = leak * v[i] + current[t, i] + ep[i] / tau
            if ref[i] > 0:
                v[i], ref[i] = 0.0, ref[i] - 1
            if v[i] > theta[i]:
                spikes[t, i], v[i], ref[i] = 1.0, 0.0, period
    layer = Recurrent(
        torch.tensor(theta), weight=torch.tensor(weight), wiring=torch.tensor(wiring).double(),
        tau=tau, leak=leak, period=period,
    )  # fmt: skip
    x, state, sent = torch.tensor(current).unsqueeze(1), None, list[Tensor]()
    for part in x.split(5 if cut else STEPS):
        now, state = layer(part, state)
        sent.append(now)
    np.testing.assert_array_equal((torch.cat(sent).squeeze(1) > 0).numpy(), spikes > 0)


def network(wiring: Tensor | None = None) -> st.SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 12, bias=False),
        nn.ReLU(), nn.Linear(12, 3, bias=False), nn.ReLU(),
    )  # fmt: skip
    snn = st.twin(ann, STEPS, (1, 4, 4), neuron=st.RefractoryNeuron(leak=0.9, period=1))
    with torch.no_grad():
        for place in (1, 3, 5):
            snn.net.get_parameter(f"{place}.weight").mul_(6)
    st.add_synapses(snn, 3.0)
    add_recurrence(snn, 1, wiring=wiring, scale=3.0)
    return snn.eval()


def images(count: int = 9) -> Tensor:
    return 3 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_a_network_runs_in_chunks_leaves_early_and_comes_back_from_a_file(tmp_path: Path) -> None:
    snn, x = network(reservoir((2, 2, 3), generator=torch.Generator().manual_seed(0))), images()
    with torch.no_grad():
        whole, parts = snn.unroll(x, STEPS, chunk=STEPS), snn.unroll(x, STEPS, chunk=5)
        found = st.EarlyExit(confidence=1.0, steps=STEPS)(snn, x)
    assert torch.equal(whole, parts) and len(torch.unique(found.steps)) > 1
    for image, (answer, step) in enumerate(zip(found.answers, found.steps, strict=True)):
        torch.testing.assert_close(answer, whole[step - 1, image])
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    layer, other = (one.net.get_submodule("4.relu") for one in (snn, again))
    assert isinstance(layer, Recurrent) and isinstance(other, Recurrent)
    assert other.tau == 3.0 and torch.equal(other.wiring, layer.wiring)
    assert torch.equal(again(x), snn(x))
    torch.testing.assert_close(snn.fold()(x), snn(x))


def test_recurrent_spikes_are_paid_for() -> None:
    wiring = torch.zeros(12, 12)
    wiring[:7, 0] = wiring[3, 1] = 1
    snn, x = network(wiring), images()
    met = next(one for name, one in st.costs(snn).fan_out.items() if "4" in name)
    assert met.tolist() == [3 + 7, 3 + 1] + [3.0] * 10
    table = st.sweep({"snn": snn}, [(x, torch.zeros(9, dtype=torch.long))], steps=[STEPS])
    sent: dict[str, Tensor] = {}
    with torch.no_grad():
        snn.unroll(x, STEPS, chunk=STEPS, monitor=sent.__setitem__)
    first, second = ((sent[name] > 0).sum((0, 1)) for name in ("_2_relu", "_4_relu"))
    assert table.rows[0].accumulates == pytest.approx(
        (12 * first.sum() + (second * met).sum()).item() / len(x)
    )


def test_other_rules_train_it_through_its_own_spikes() -> None:
    snn, x, labels = network().train(), images(24) / 4, torch.arange(24) % 3
    x[range(24), 0, labels] += 2
    layer = snn.net.get_submodule("4.relu")
    assert isinstance(layer, Recurrent)
    before = layer.weight.detach().clone()
    training = st.Training(learning_rate=3e-2, warmup=0.0)
    history = st.tune(
        snn, [(x, labels)], st.SurrogateBPTT(), steps=STEPS, epochs=20, training=training
    )
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    moved = (layer.weight - before).abs()
    assert (moved > 0).float().mean() > 0.5


def test_a_reservoir_has_the_papers_chances() -> None:
    counts = torch.zeros(4, 4, 4)
    for seed in range(400):
        make = torch.Generator().manual_seed(seed)
        counts += reservoir((4,), inhibitory=0.0, generator=make) / 400
    place = torch.arange(4.0)
    far = (place[:, None] - place).square()
    expected = (0.45 * (-far / 4).exp()).fill_diagonal_(0)
    torch.testing.assert_close(counts[0], expected, rtol=0, atol=0.08)
    held = torch.stack([
        reservoir((4,), inhibitory=1.0, generator=torch.Generator().manual_seed(s))
        for s in range(400)
    ])  # fmt: skip
    torch.testing.assert_close(held.mean(0), expected / 3, rtol=0, atol=0.08)
    ranges = [range(5), range(5), range(16)]
    far_apart = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
        for one in product(*ranges)
        for other in product(*ranges)
        if one != other
    ]
    share = 0.64 * 0.3 + 0.16 * (0.2 + 0.4) + 0.04 * 0.1
    chance = 1.5 * share * float(np.exp(-np.array(far_apart) / 4).sum()) / 400**2
    big = reservoir(generator=torch.Generator().manual_seed(0))
    assert big.shape == (400, 400) and big.mean().item() == pytest.approx(chance, rel=0.05)


def test_what_makes_no_sense_is_refused() -> None:
    snn, one = network(), torch.tensor(1.0)
    with pytest.raises(SpiketuneError, match=r"'relu' is no layer of refractory.*_2_relu, _6_relu"):
        add_recurrence(snn, "relu")
    with pytest.raises(SpiketuneError, match="1 is no layer of refractory"):
        add_recurrence(snn, 1)
    with pytest.raises(SpiketuneError, match="9 is no layer"):
        add_recurrence(snn, 9)
    with pytest.raises(SpiketuneError, match=r"wiring \[3, 3\] do not fit"):
        add_recurrence(snn, 0, wiring=torch.ones(3, 3))
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(SpiketuneError, match="_2_relu: scale must be above 0"):
            add_recurrence(snn, 0, scale=scale)
    assert type(dict(snn.neurons())["_2_relu"]) is Refractory  # nothing was changed by halves
    plain = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 4, (4,))
    with pytest.raises(SpiketuneError, match="none: build the network with neuron=Refractory"):
        add_recurrence(plain, 0)
    with pytest.raises(SpiketuneError, match=r"must both be \[N, N\]"):
        Recurrent(one, weight=torch.ones(2, 3))
    with pytest.raises(SpiketuneError, match="tau must be at least 1"):
        Recurrent(one, weight=torch.ones(2, 2), tau=0.5)
    with pytest.raises(SpiketuneError, match="put a Flatten before"):
        Recurrent(one, weight=torch.ones(2, 2))(torch.ones(3, 1, 2, 2))
    with pytest.raises(SpiketuneError, match="sides must be at least 1"):
        reservoir((3, 0))
    assert isinstance(Recurrent(one, weight=torch.ones(2, 2)), Refractory)
