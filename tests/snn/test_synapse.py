"""Synapses against SciPy's filter, wherever they stand in a network, and through a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import Firing, HardReset, SpiketuneError, SpikingNetwork, Synapse, decay_behind

STEPS = 6


def spikes(*shape: int) -> Tensor:
    make = torch.Generator().manual_seed(0)
    return (torch.rand(*shape, generator=make) > 0.6).double()


@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0])
def test_it_is_scipys_filter_in_one_piece_or_two(tau: float) -> None:
    x = spikes(9, 2, 3)
    expected = torch.tensor(lfilter([1 / tau], [1, -(1 - 1 / tau)], x.numpy(), axis=0))
    whole, _ = Synapse(tau=tau)(x)
    first, state = Synapse(tau=tau)(x[:4])
    second, _ = Synapse(tau=tau)(x[4:], state)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.cat([first, second]), expected, rtol=0, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    x = spikes(4, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: Synapse(tau=2.0)(given)[0], (x,))


def network(*, synapses: bool) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)]
    firing = Firing(reset=HardReset())
    neuron = st.LeakyNeuron(leak=0.8, firing=firing)
    snn = st.twin(nn.Sequential(*layers, nn.ReLU()), STEPS, (1, 8, 8), neuron=neuron)
    for weight in (snn.net.get_parameter("0.weight"), snn.net.get_parameter("4.weight")):
        weight.data.mul_(8)
    if synapses:
        st.add_synapses(snn, 2.0, output=True)
    return snn.eval()


def test_behind_the_weights_or_before_them_is_the_same() -> None:
    x = 20 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain, filtered = network(synapses=False), network(synapses=True)
    (_, first), (_, last) = plain.neurons()
    weigh = plain.net.get_submodule("0"), plain.net.get_submodule("4")
    image = Synapse(tau=2.0)(x.expand(STEPS, *x.shape))[0]
    kernel, matrix = weigh[0].weight, weigh[1].weight  # type: ignore[union-attr]
    settled = Synapse(tau=2.0)(torch.ones(STEPS, 1, 1))[0]  # what becomes of a bias

    def bias(layer: nn.Module, dims: int) -> Tensor:
        held: Tensor = layer.bias  # type: ignore[assignment]
        return settled.view(STEPS, 1, 1, *[1] * dims) * held.view(1, 1, -1, *[1] * dims)

    current = nn.functional.conv2d(image.flatten(0, 1), kernel).unflatten(0, (STEPS, 2))
    sent, _ = first(current + bias(weigh[0], 2))
    sent = Synapse(tau=2.0)(sent)[0].flatten(0, 1)
    arriving = nn.functional.avg_pool2d(sent, 2).flatten(1) @ matrix.T
    sent, _ = last(arriving.unflatten(0, (STEPS, 2)) + bias(weigh[1], 0))
    expected = Synapse(tau=2.0)(sent)[0].mean(0)
    assert float(expected.detach().max()) > 0.1
    with torch.no_grad():
        torch.testing.assert_close(filtered(x), expected, rtol=1e-5, atol=1e-6)


def test_weights_still_see_spikes_and_the_stem_is_computed_once() -> None:
    plain, filtered = st.costs(network(synapses=False)), st.costs(network(synapses=True))
    assert filtered.stem_macs == plain.stem_macs
    # A trace that decays for every current, and for each of the five answers.
    assert filtered.dense_macs == plain.dense_macs + plain.neurons + 5


def test_a_file_keeps_them(tmp_path: Path) -> None:
    snn = network(synapses=True)
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    x = 20 * torch.rand(2, 1, 8, 8)
    assert torch.equal(again(x), snn(x))
    assert [unit.tau for unit in again.modules() if isinstance(unit, Synapse)] == [2.0] * 3
    assert torch.equal(again.ann(x), network(synapses=False).ann(x))


def test_a_neuron_knows_the_synapses_behind_it() -> None:
    snn = network(synapses=True)
    assert [decay_behind(snn, node) for node, _ in snn.neuron_nodes()] == [0.5, 0.5]
    last = [unit for unit in snn.modules() if isinstance(unit, Synapse)][-1]
    last.tau = 4.0
    assert [decay_behind(snn, node) for node, _ in snn.neuron_nodes()] == [0.5, 0.75]


def test_what_makes_no_sense_is_refused() -> None:
    for tau in (0.5, float("nan"), float("inf"), "2"):
        with pytest.raises(SpiketuneError, match="tau must be at least 1 step"):
            Synapse(tau=tau)  # type: ignore[arg-type]


def test_synapses_that_stand_nowhere_or_twice_are_refused() -> None:
    snn = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 5, (4,))
    st.add_synapses(snn, 2.0)
    with pytest.raises(SpiketuneError, match="has synapses already"):
        st.add_synapses(snn, 3.0)
    once = st.single_spike([nn.Linear(4, 3, bias=False)], (4,))
    with pytest.raises(SpiketuneError, match="no neurons that run in steps"):
        st.add_synapses(once, 2.0)
