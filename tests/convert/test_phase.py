from __future__ import annotations

import numpy as np
import pytest
import torch
from convert_networks import around, conv, decibels, images
from torch import nn

import spiketune as st


def by_hand(targets: np.ndarray, theta: np.ndarray, base: float, hold: float) -> np.ndarray:
    """Send what is missing of ``targets [T, B, C]`` in single spikes of falling weight."""
    sent, out = np.zeros_like(targets[0]), []
    for step, target in enumerate(targets, 1):
        size = theta * base ** -max(step - hold, 0)
        missing = target - sent
        spike = np.sign(missing) * (np.abs(missing) > size / 2) * size
        sent, out = sent + spike, [*out, spike]
    return np.stack(out)


def test_two_layers_are_what_numpy_says() -> None:
    ann = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    ann, x, steps = ann.double().eval(), torch.rand(20, 5, dtype=torch.float64), 12
    snn = st.to_snn(ann, x, st.Phase(steps=steps, base=1.5, tail=4))
    first, second = (neuron.threshold.numpy() for _, neuron in snn.neurons())
    w = [p.detach().numpy() for p in ann.parameters()]
    z = x.numpy() @ w[0].T + w[1]
    one = by_hand(np.repeat(np.maximum(z, 0)[None], steps, 0), first, 1.5, 1.0)
    current = one.cumsum(0) @ w[2].T + w[3]
    two = by_hand(np.maximum(current, 0), second, 1.5, 1.0 + (steps - 1 - 4))
    answer = two.cumsum(0) @ w[4].T + w[5]
    assert np.allclose(snn.unroll(x).detach().numpy(), answer, atol=1e-12)


def test_it_tells_more_levels_apart_than_a_rate_of_as_many_steps() -> None:
    ann = around(lambda m, y: torch.relu(m.b(torch.relu(m.a(y)))), a=conv(), b=conv())
    x = images(24)
    expected = ann(x)
    phase = decibels(expected, st.to_snn(ann, x, st.Phase(steps=32))(x))
    rate = decibels(expected, st.to_snn(ann, x, st.Ternary(steps=32))(x))
    assert phase > rate + 6


def test_a_step_knows_one_size_of_spike_in_a_layer() -> None:
    """``±θ g_l(t)`` or nothing, at every step and neuron, thresholds folded or not."""
    ann = around(lambda m, y: torch.relu(m.a(y)), a=conv())
    snn = st.to_snn(ann, images(), st.Phase(steps=8))
    for network in (snn, snn.fold()):
        seen: dict[str, list[torch.Tensor]] = {name: [] for name, _ in network.neurons()}
        network.unroll(images(4), monitor=lambda name, out, seen=seen: seen[name].extend(out))
        for name, neuron in network.neurons():
            assert len(seen[name]) == 8
            for step, now in enumerate(seen[name], 1):
                size = neuron.schedule(step) * (1 if neuron.folded else neuron.threshold)
                assert set((now / size).round(decimals=4).unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_refusals() -> None:
    with pytest.raises(st.SpiketuneError, match="base must be above 1"):
        st.Phase(base=1.0)
    with pytest.raises(st.SpiketuneError, match="tail at least 1"):
        st.Phase(tail=0)
