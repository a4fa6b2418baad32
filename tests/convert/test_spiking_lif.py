"""SpikingLIF against NumPy and the rates that a network was trained for; what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import doctor
from spiketune.snn import ConversionError, Mean, RateLIF, SoftLIF, SpiketuneError, Synapse

Array = NDArray[np.float64]


def started(net: nn.Sequential) -> nn.Sequential:
    """Give the layers in front of a SoftLIF biases at which its neurons fire."""
    for layer, behind in pairwise(net):
        if isinstance(behind, SoftLIF | nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 2.0)
    return net.eval()


def dense(**curve: float) -> nn.Sequential:
    layers = (nn.Linear(6, 8), SoftLIF(**curve), nn.Linear(8, 5), SoftLIF(), nn.Linear(5, 3))
    return started(nn.Sequential(*layers))


def lif(current: Array, dt: float, tau_rc: float, tau_ref: float) -> Array:
    """Return spikes ``[T, ...]``: what is left of the rest is carried, crossings by logarithm."""
    v, rest, out = np.zeros_like(current[0]), np.zeros_like(current[0]), []
    for j in current:
        charged = np.clip(dt - rest, 0, dt)
        v = v + (j - v) * -np.expm1(-charged / tau_rc)
        fired = v > 1
        crossed = dt + tau_rc * np.log1p(-np.where(fired, (v - 1) / np.where(fired, j - 1, 1), 0))
        rest = np.where(fired, tau_ref + crossed - dt, np.maximum(rest - dt, 0))
        v = np.where(fired, 0, v)
        out.append(fired.astype(float))
    return np.stack(out)


@pytest.mark.parametrize("synapse", [0.005, 0.0125, None])
def test_two_layers_are_what_numpy_says(synapse: float | None) -> None:
    dt, steps = 0.0008, 90
    ann = dense(tau_rc=0.03, tau_ref=0.0015, amplitude=0.02).double()
    x = torch.rand(7, 6, dtype=torch.float64)
    snn = st.to_snn(ann, x, st.SpikingLIF(steps=steps, dt=dt, synapse=synapse))
    w = [p.detach().numpy() for p in ann.parameters()]
    current = np.repeat((x.numpy() @ w[0].T + w[1])[None], steps, 0)
    spikes = lif(current, dt, 0.03, 0.0015) * 0.02 / dt
    arriving, level, filtered = spikes @ w[2].T + w[3], 0.0, []
    r = 0.0 if synapse is None else math.exp(-dt / synapse)
    for now in arriving:
        level = r * level + (1 - r) * now
        filtered.append(level)
    second = lif(np.stack(filtered), dt, 0.02, 0.002) * 0.01 / dt
    answers = second @ w[4].T + w[5]
    expected = answers.cumsum(0) / np.arange(1, steps + 1)[:, None, None]
    assert spikes.any() and second.any()
    np.testing.assert_allclose(snn.unroll(x).detach().numpy(), expected, atol=1e-9)


@torch.no_grad()
def test_the_graph_is_the_network_and_a_layer_fires_at_its_rates() -> None:
    ann, x, steps = dense(gamma=0.005), torch.rand(50, 6), 400
    snn = st.to_snn(ann, x, st.SpikingLIF(steps=steps))
    assert torch.allclose(snn.ann(x), ann(x), atol=1e-6)
    sent: dict[str, Tensor] = {}
    for chunk in snn.outputs(x, steps, monitor=lambda name, out: _add(sent, name, out)):
        del chunk
    first = sent[next(snn.neurons())[0]] / steps
    apart = (first - SoftLIF(gamma=0.0)(ann[0](x))).abs().max().item()
    assert apart <= 10.0 / steps * 1.001  # a spike more or less
    answers, expected = snn(x), ann(x)
    assert (answers - expected).std() < 0.25 * expected.std()


def _add(sent: dict[str, Tensor], name: str, out: Tensor) -> None:
    sent[name] = sent.get(name, torch.zeros(())) + out.sum(0)


@torch.no_grad()
def test_more_time_comes_nearer_to_the_rates() -> None:
    ann, x = dense(gamma=0.005), torch.rand(200, 6)
    curve = st.to_snn(ann, x, st.SpikingLIF(steps=800)).unroll(x)
    errors = [float((curve[t - 1] - ann(x)).square().mean().sqrt()) for t in (25, 100, 800)]
    assert errors[0] > 2 * errors[1] > 3 * errors[2]


def test_synapses_stand_where_spikes_arrive_and_nowhere_else() -> None:
    ann = started(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), SoftLIF(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2), SoftLIF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
        )
    )  # fmt: skip
    x = torch.rand(9, 1, 8, 8)
    snn = st.to_snn(ann, x, st.SpikingLIF(steps=5, synapse=0.004))
    units = dict(snn.net.named_modules())
    before = [units.get(str(node.all_input_nodes[0].target)) for node, _ in snn.neuron_nodes()]
    assert before[0] is None and isinstance(before[1], Synapse)
    assert before[1].decay == pytest.approx(math.exp(-0.001 / 0.004))
    assert sum(isinstance(unit, Synapse) for unit in snn.modules()) == 1
    kinds = {row.found: row.became for row in snn.report.rows if row.became in ("neuron", "moved")}
    assert kinds == {"soft_lif": "neuron", "max_pool2d": "moved"}
    assert all(isinstance(neuron, RateLIF) for _, neuron in snn.neurons())
    without = st.to_snn(ann, x, st.SpikingLIF(steps=5, synapse=None))
    assert not any(isinstance(unit, Synapse) for unit in without.modules())


@torch.no_grad()
def test_it_is_saved_swept_and_diagnosed(tmp_path: Path) -> None:
    ann, x = dense(), torch.rand(40, 6)
    snn = st.to_snn(ann, x, st.SpikingLIF(steps=60, initial=0.3))
    again = st.load(st.save(snn, tmp_path / "lif.safetensors"))
    assert torch.equal(again.unroll(x), snn.unroll(x))
    assert again.about["method"] == "SpikingLIF(steps=60, initial=0.3)"
    table = st.sweep({"rates": ann, "spikes": snn}, [(x, ann(x).argmax(1))], [20, 60])
    last = table.rows[-1]
    assert last.model == "spikes" and last.steps == 60 and last.top1 > 60
    found = doctor(snn, x)
    assert [layer.neuron for layer in found.layers] == ["RateLIF", "RateLIF"]


def test_other_methods_take_the_curve_as_a_function() -> None:
    ann, x = dense(), torch.rand(30, 6)
    snn = st.to_snn(ann, x, st.Graded(steps=16))
    expected = ann(x)
    assert (snn(x) - expected).std() < 0.1 * expected.std()


def test_what_was_not_trained_with_the_curve_is_refused_by_name() -> None:
    mixed = nn.Sequential(nn.Linear(6, 8), SoftLIF(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.rand(9, 6)
    with pytest.raises(ConversionError, match=r"^3: no rule for relu; train .*SoftLIF.*Graded"):
        st.to_snn(mixed.eval(), x, st.SpikingLIF())
    assert [row.path for row in st.check(mixed, x, st.SpikingLIF()).refused] == ["3"]
    smooth = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    with pytest.raises(ConversionError, match="without SoftLIF activations; train"):
        st.to_snn(smooth, x, st.SpikingLIF())
    fast = dense(tau_ref=0.0005)
    with pytest.raises(ConversionError, match=r"^1: .*tau_ref=0.0005; .*give dt=0.0005 or less"):
        st.to_snn(fast, x, st.SpikingLIF())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dt": 0.0}, "dt must be above 0 seconds, not 0.0"),
        ({"dt": math.nan}, "dt must be above 0 seconds"),
        ({"synapse": -0.005}, "synapse must be above 0 seconds"),
        ({"initial": 1.0}, r"initial must lie in \[0, 1\)"),
        ({"threshold": st.Max()}, "no use for threshold; leave it out"),
        ({"per": "layer"}, "no use for per"),
        ({"drive": 3}, "no use for drive"),
        ({"input": "poisson"}, "no use for input"),
        ({"equalise": True}, "no use for equalise"),
        ({"corrections": (st.BiasCorrection(),)}, "no use for corrections"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(SpiketuneError, match=says):
        st.SpikingLIF(**given)


def test_a_readout_is_taken() -> None:
    ann, x = dense(), torch.rand(9, 6)
    late = st.to_snn(ann, x, st.SpikingLIF(steps=40, readout=st.Delayed(start=20)))
    early = st.to_snn(ann, x, st.SpikingLIF(steps=40))
    outputs = torch.cat(list(early.outputs(x, 40)))
    assert early.readout == Mean()
    assert torch.allclose(late(x), outputs[20:].mean(0), atol=1e-6)
