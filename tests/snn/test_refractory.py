"""Refractory neurons against a NumPy loop in the order of the authors' programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from torch import nn

import spiketune as st
from spiketune.snn import Firing, HardReset, Refractory, SpiketuneError, Synapse, neuron_path
from spiketune.zoo import ModelError

Array = NDArray[np.float64]
quick = settings(max_examples=60, deadline=None, derandomize=True)


def reference(x: Array, theta: float, tau_m: float, tau_s: float, period: int) -> Array:
    """Return the spikes of neurons that ``x [T, N]`` arrives at, with synapses a step late."""
    steps, size = x.shape
    spikes = np.zeros((steps, size))
    for n in range(size):
        v = ep = 0.0
        ref = 0
        for t in range(1, steps):  # nothing happens in the first step
            v -= v / tau_m
            ep -= ep / tau_s
            ep += x[t - 1, n]
            v += ep / tau_s
            if ref > 0:
                v = 0.0
                ref -= 1
            if v > theta:
                spikes[t, n], v, ref = 1.0, 0.0, period
    return spikes


@given(
    some.integers(0, 2**32 - 1), some.integers(1, 30), some.floats(1.5, 40), some.floats(1, 8),
    some.integers(0, 4), some.booleans(),
)  # fmt: skip
@quick
def test_behind_a_late_synapse_it_is_the_neuron_of_the_papers(
    seed: int, steps: int, tau_m: float, tau_s: float, period: int, compiled: bool
) -> None:
    x = np.random.default_rng(seed).normal(0.5, 2.0, (steps, 5))
    expected = reference(x, 0.7, tau_m, tau_s, period)
    current, _ = Synapse(tau=tau_s, delayed=True)(torch.tensor(x).unsqueeze(1))
    theta = torch.tensor(0.7, dtype=torch.double)
    neuron = Refractory(theta, leak=torch.tensor(1 - 1 / tau_m).double(), period=period)
    with neuron_path("compiled" if compiled and steps == 8 else "eager"), torch.no_grad():
        sent, _ = neuron(current)
    np.testing.assert_array_equal(sent.squeeze(1).numpy() > 0, expected > 0)


def test_kernels_do_the_same_forward_and_backward() -> None:
    found: dict[str, Any] = {}
    for way in ("eager", "compiled"):
        neuron = Refractory(torch.tensor([0.8, 1.2]), leak=0.9, period=2)
        x = torch.rand(11, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with neuron_path(way):
            sent, state = neuron(x)
            sent[:7].sum().backward()
        assert state.tracer is not None
        found[way] = sent.detach(), state.membrane.detach(), state.tracer.detach(), x.grad
    assert found["eager"][0].any() and found["eager"][3].any()
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_it_fires_in_one_step_of_so_many_at_most_and_goes_on_where_it_stood() -> None:
    for period in range(4):
        neuron, x = Refractory(torch.tensor(1.0), period=period), torch.full((12, 1), 9.0)
        whole, _ = neuron(x)
        assert whole.flatten().tolist() == ([1.0] + [0.0] * period) * (12 // (period + 1))
        first, state = neuron(x[:5])
        assert torch.equal(torch.cat([first, neuron(x[5:], state)[0]]), whole)


def network(kind: st.RefractoryNeuron) -> st.SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3), nn.ReLU())
    return st.twin(ann, 6, (1, 4, 4), neuron=kind)


def test_networks_of_it_are_saved_and_trained_by_other_rules(tmp_path: Path) -> None:
    snn, x = network(st.RefractoryNeuron(leak=0.9, period=1)), torch.rand(8, 1, 4, 4)
    history = st.tune(
        snn, [(x, torch.arange(8) % 3)], st.SurrogateBPTT(), steps=6, epochs=30,
        training=st.Training(learning_rate=3e-2, warmup=0.0),
    )  # fmt: skip
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    assert torch.equal(again(x), snn(x)) and snn(x).any()
    assert [(n.period, n.leak.item()) for _, n in again.neurons()] == [(1, pytest.approx(0.9))] * 2  # type: ignore[attr-defined]


def test_what_makes_no_sense_is_refused() -> None:
    one = torch.tensor(1.0)
    for wrong in (-1, 1.5, True, "2", float("nan")):
        with pytest.raises(SpiketuneError, match=r"period must be 0 steps or more.*, not "):
            Refractory(one, period=wrong)  # type: ignore[arg-type]
    for leak in (1.5, 0.0, float("nan"), "0.9", None):
        with pytest.raises(SpiketuneError, match="leak must be numbers in"):
            Refractory(one, leak=leak)  # type: ignore[arg-type]
    for firing in (Firing(), Firing(reset=HardReset(to=0.5))):
        with pytest.raises(SpiketuneError, match="rests at 0"):
            Refractory(one, firing=firing)
    with pytest.raises(ModelError, match="rests for 2 steps"):
        st.RefractoryNeuron().drive()
    assert st.RefractoryNeuron(period=0).drive() > 1
