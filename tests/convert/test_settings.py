"""Settings are used or refused: none is read and ignored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.convert import Method, SpikeInput


def _images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", [st.Graded, st.Phase])
def test_differential_coding_refuses_another_drive(method: type[Method]) -> None:
    with pytest.raises(st.SpiketuneError, match="drive=5"):
        method(drive=5)
    assert replace(method(), steps=3).drive == 1


def test_rate_coding_keeps_its_drive() -> None:
    assert st.Graded(coding="rate", drive=5).drive == 5


def test_rate_coding_refuses_a_schedule() -> None:
    with pytest.raises(st.SpiketuneError, match="leave it out"):
        st.Graded(coding="rate", schedule=st.snn.Geometric(base=2.0))


def test_another_coding_is_refused() -> None:
    with pytest.raises(st.SpiketuneError, match="'temporal'"):
        st.Graded(coding="temporal")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [st.Graded, st.Phase])
def test_random_spikes_need_rate_coding(method: type[Method]) -> None:
    with pytest.raises(st.SpiketuneError, match="rate coding"):
        method(input="poisson")
    assert st.Graded(input="poisson", coding="rate").input == "poisson"


@pytest.mark.parametrize("method", [st.Graded, st.Phase])
def test_neurons_that_start_from_nothing_take_no_initial_membrane(method: type[Method]) -> None:
    with pytest.raises(TypeError, match="initial"):
        method(initial=0.2)  # type: ignore[call-arg]


def test_spike_input_after_equalisation_and_a_ceiling() -> None:
    """Ceilings differ from channel to channel once the ranges are evened out."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 2))
    method = st.Binary(steps=64, threshold=SpikeInput(percent=100), equalise=True)
    snn = st.to_snn(ann, _images(), method)
    for _, neuron in snn.neurons():
        assert neuron.ceiling is not None
        assert bool((neuron.threshold <= neuron.ceiling + 1e-6).all())


def test_spike_input_simulates_with_the_neurons_that_are_built() -> None:
    """``Graded`` makes its largest spike ``headroom`` times the balanced value: seen by layer 2."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
    method = st.Graded(
        steps=4, threshold=SpikeInput(percent=100), levels=2, spikes_per_step=1, coding="rate"
    )
    images = _images(16)
    snn = st.to_snn(ann, images, method).requires_grad_(False)
    first, second = (neuron for _, neuron in snn.neurons())
    current = (images @ ann[0].weight.T + ann[0].bias).expand(4, 16, 6)
    with torch.no_grad():
        sent, _ = first(current)
        # Conversion may have folded thresholds into nothing: weights are the ANN's.
        arriving = sent @ ann[2].weight.T + ann[2].bias
    largest = arriving.clamp_min(0).amax((0, 1))
    largest = torch.where(largest > 0, largest, largest.max())
    torch.testing.assert_close(second.threshold, method.headroom * largest)


def test_a_channel_that_hardly_stirs_keeps_a_threshold_worth_having() -> None:
    """By arithmetic: a channel of 1/1000 takes ``least`` of the loud one's threshold."""
    ann = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    ann[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.001]])
    images = torch.ones(8, 2)
    for least, quiet in ((0.25, 0.25), (0.0, 0.001)):
        snn = st.to_snn(ann, images, st.Graded(headroom=2.0, least=least))
        ((_, neuron),) = snn.neurons()
        torch.testing.assert_close(neuron.threshold, 2 * torch.tensor([1.0, quiet]))
    with pytest.raises(st.SpiketuneError, match="least"):
        st.Graded(least=1.5)
