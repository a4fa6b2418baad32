"""Neurons that inhibit each other: against a loop by hand, and the rates that they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import LIF, Firing, HardReset, Lateral, SpiketuneError, SpikingNetwork
from spiketune.zoo import LateralNeuron, ModelError

Group = Literal["layer", "pixel"]
SCALE = 0.2  # thresholds of a network that fires


def by_hand(current: Any, threshold: Any, leak: float, share: float, group: Group) -> Any:
    """Return the spikes of ``[T, C, P]``, one neuron after another."""
    steps, channels, pixels = current.shape
    v, sent = np.zeros((channels, pixels)), np.zeros_like(current)
    for t in range(steps):
        u = leak * v + current[t]
        for c in range(channels):
            for p in range(pixels):
                sent[t, c, p] = u[c, p] / threshold[c, p] >= 1
        for c in range(channels):
            for p in range(pixels):
                heard = sent[t].sum() if group == "layer" else sent[t, :, p].sum()
                others = heard - sent[t, c, p]
                v[c, p] = u[c, p] - threshold[c, p] * (sent[t, c, p] + share * others)
    return sent


@settings(max_examples=30, deadline=None)
@given(
    leak=draw.floats(0.3, 1.0),
    share=draw.floats(0.0, 0.9),
    group=draw.sampled_from(["layer", "pixel"]),
    seed=draw.integers(0, 99),
)
def test_it_equals_a_loop_over_neurons(leak: float, share: float, group: Group, seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    threshold = 0.5 + torch.rand(3, 4, generator=make, dtype=torch.float64)
    current = torch.rand(8, 2, 3, 4, generator=make, dtype=torch.float64)
    neuron = Lateral(threshold, leak=leak, inhibition=share, group=group, bare=True)
    sent, state = neuron(current)
    for image in range(2):
        expected = by_hand(current[:, image].numpy(), threshold.numpy(), leak, share, group)
        np.testing.assert_array_equal(sent[:, image].numpy(), expected)
    first, between = neuron(current[:3])
    second, after = neuron(current[3:], between)
    assert torch.equal(torch.cat([first, second]), sent)
    assert torch.equal(after.membrane, state.membrane)


def test_without_inhibition_it_is_a_lif_neuron() -> None:
    threshold, current = torch.tensor([[0.7], [1.3]]), torch.rand(9, 4, 2, 5)
    neuron, lif = Lateral(threshold, leak=0.9), LIF(threshold, leak=0.9)
    assert torch.equal(neuron(current)[0], lif(current)[0])
    assert torch.equal(neuron.ann(current[0]), lif.ann(current[0]))
    bare = Lateral(threshold, leak=0.9, bare=True)
    assert torch.equal(bare(current)[0] * threshold, lif(current)[0])
    assert torch.allclose(bare.ann(current[0]) * threshold, lif.ann(current[0]))


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_are_those_of_the_equations(detach: bool) -> None:
    """``δ[t] = q + h (g - detached or not (q + κ Σ_{h≠i} θ_h q_h/θ_i))``, ``q = λ δ[t+1]``."""
    make = torch.Generator().manual_seed(3)
    threshold = 0.5 + torch.rand(5, generator=make, dtype=torch.float64)
    current = torch.rand(9, 1, 5, generator=make, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(9, 1, 5, generator=make, dtype=torch.float64)
    firing = Firing(surrogate=st.snn.Sigmoid(alpha=2.0), detach_reset=detach)
    neuron = Lateral(threshold, leak=0.8, inhibition=0.3, firing=firing)
    sent, _ = neuron(current)
    (found,) = torch.autograd.grad(sent, current, upstream)
    assert 0.2 < (sent > 0).double().mean() < 0.8
    th, v, charged = threshold.numpy(), np.zeros(5), []
    for now in current.detach().numpy()[:, 0]:
        charged.append(0.8 * v + now)
        s = (charged[-1] / th >= 1).astype(float)
        v = charged[-1] - th * (s + 0.3 * (s.sum() - s))
    q, expected = np.zeros(5), np.zeros((9, 5))
    for t in reversed(range(9)):
        logistic = 1 / (1 + np.exp(-2 * (charged[t] / th - 1)))
        back = th * q + 0.3 * ((th * q).sum() - th * q)
        at_spike = th * upstream.numpy()[t, 0] - (0 if detach else back)
        expected[t] = q + 2 * logistic * (1 - logistic) / th * at_spike
        q = 0.8 * expected[t]
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-13)


def test_an_inhibition_that_does_not_train_is_left_alone() -> None:
    snn = network(LateralNeuron(leak=0.9, inhibition=1.0))
    st.tune(snn, [(images(), torch.arange(5) % 4)], st.SurrogateBPTT(), steps=6, epochs=1)
    assert all(n.inhibition.item() == 1 for _, n in snn.neurons() if isinstance(n, Lateral))


def test_traces_come_to_what_the_inhibition_leaves() -> None:
    # a_i + κ Σ_{h≠i} a_h = z_i/θ_i among those that fire at all: solved by a matrix.
    leak, share = 0.9, 0.2
    threshold = torch.tensor([1.0, 1.1, 0.9, 1.2], dtype=torch.float64)
    current = torch.tensor([0.9, 0.8, 0.75, 0.7], dtype=torch.float64)
    neuron = Lateral(threshold, leak=leak, inhibition=share, bare=True)
    sent = neuron(current.expand(4_000, 1, 4))[0].squeeze(1)
    trace = sent.mean(0) / (1 - leak)
    matrix = (1 - share) * torch.eye(4, dtype=torch.float64) + share
    expected = torch.linalg.solve(matrix, current / (1 - leak) / threshold)
    assert bool((expected > 0.5).all())
    # A membrane rests a little below its threshold, so a little less is sent than arrives.
    torch.testing.assert_close(trace, expected, rtol=0.08, atol=0)


def network(kind: LateralNeuron) -> SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4), nn.ReLU()
    )
    snn = st.twin(ann, 6, (1, 8, 8), neuron=kind)
    for _, neuron in snn.neurons():
        neuron.threshold.data.fill_(SCALE)
    snn.net.get_parameter("3.weight").data.mul_(4)
    return snn


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("group", ["layer", "pixel"])
def test_a_network_is_saved_folded_and_swept(tmp_path: Path, group: Group, bare: bool) -> None:
    snn = network(LateralNeuron(leak=0.9, inhibition=0.01, group=group, bare=bare)).eval()
    plain = snn(images())
    assert len(plain.unique()) > 3
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    assert torch.equal(again(images()), plain)
    torch.testing.assert_close(snn.fold()(images()), plain)
    table = st.sweep({"lateral": snn}, [(images(), torch.arange(5) % 4)], steps=6)
    assert len(table.rows) == 6 and table.rows[-1].spikes_per_neuron > 0
    costs = st.costs(snn)
    assert costs.dense_macs == costs.neurons  # each hears its group once a step


def test_inhibition_makes_a_layer_sparser() -> None:
    counts = [
        torch.cat([sent for sent in _sent(LateralNeuron(leak=0.9, inhibition=share))]).sum()
        for share in (0.0, 0.02, 0.2)
    ]
    assert counts[0] > counts[1] > counts[2] > 0


def _sent(kind: LateralNeuron) -> list[Tensor]:
    found: list[Tensor] = []
    snn = network(kind).eval()
    with torch.no_grad():
        snn.unroll(images(), monitor=lambda name, out: found.append(out.flatten()))
    return found


def test_it_is_trained_through_time_too() -> None:
    snn = network(LateralNeuron(leak=0.9, inhibition=0.05))
    training = st.Training(learning_rate=3e-2, warmup=0.0)
    batch = (images(24), torch.arange(24) % 4)
    history = st.tune(snn, [batch], st.SurrogateBPTT(), steps=6, epochs=60, training=training)
    assert history.epochs[-1].loss < 0.85 * history.epochs[0].loss


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"leak": 0.0}, "a leak must be numbers in"),
        ({"leak": "0.9"}, r"a leak must be numbers in \(0, 1\], not '0.9'"),
        ({"leak": True}, "a leak must be numbers in"),
        ({"inhibition": float("nan")}, "from 0 to 1, not nan"),
        ({"inhibition": None}, "from 0 to 1, not None"),
        ({"bare": "yes"}, "bare must be True or False, not 'yes'"),
        ({"inhibition": -0.1}, "from 0 to 1, not -0.1"),
        ({"inhibition": 1.5}, "from 0 to 1, not 1.5"),
        ({"inhibition": torch.tensor([0.1, 0.2])}, "one number"),
        ({"group": "row"}, "layer or pixel, not 'row'"),
        ({"firing": Firing(reset=HardReset())}, "reset softly"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpiketuneError, match=said):
        Lateral(torch.tensor(1.0), **{"leak": 0.9, **given})


def test_no_constant_drive_makes_it_fire_at_every_step() -> None:
    assert LateralNeuron(inhibition=0.0).drive() == 1.0
    with pytest.raises(ModelError, match="whatever its group does"):
        LateralNeuron().drive()
