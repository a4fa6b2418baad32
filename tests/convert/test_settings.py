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
    """Ceilings differ from channel to channel once the ranges are evened out, and bind."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 2))
    ann[0].weight.data *= torch.tensor([40.0, 1, 2, 3, 40, 5])[:, None]
    ann[2].weight.data *= torch.tensor([10.0, 1, 2, 3, 10])[:, None]
    method = st.Binary(steps=64, threshold=SpikeInput(percent=100), equalise=True)
    snn = st.to_snn(ann, _images(), method)
    assert [row.found for row in snn.report.rows].count("ranges") == 2
    bound = spread = 0
    for _, neuron in snn.neurons():
        assert isinstance(neuron.ceiling, torch.Tensor) and len(neuron.ceiling) > 1
        assert bool((neuron.threshold <= neuron.ceiling + 1e-6).all())
        spread += len(neuron.ceiling.unique()) > 1
        bound += int((neuron.threshold == neuron.ceiling).sum())
    assert (
        spread > 0 and bound > 0
    )  # without the bound these thresholds would lie above what a ReLU6 says


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


@pytest.mark.parametrize("method", [st.Binary, st.Burst])
def test_spikes_that_are_not_taken_back_need_an_image_at_every_step(method: type[Method]) -> None:
    with pytest.raises(st.SpiketuneError, match="drive=4"):
        method(drive=4)


def test_a_delayed_readout_needs_an_image_at_every_step() -> None:
    with pytest.raises(st.SpiketuneError, match="delayed"):
        st.Graded(readout=st.Delayed())


def test_sizes_are_whole_numbers_and_headroom_is_finite() -> None:
    for settings in ({"levels": 2.5}, {"spikes_per_step": 0}, {"headroom": float("inf")}):
        with pytest.raises(st.SpiketuneError, match=next(iter(settings))):
            st.Graded(**settings)  # type: ignore[arg-type]


def test_one_level_is_balanced_for_one_level() -> None:
    """``drive=1`` tells one level apart, however many steps there are."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    thresholds = [
        next(st.to_snn(ann, _images(), st.Ternary(steps=steps, drive=1)).neurons())[1].threshold
        for steps in (1, 16)
    ]
    torch.testing.assert_close(*thresholds, rtol=0, atol=0)


def test_a_burst_spans_the_range() -> None:
    """A full burst of ``m`` spikes reaches what the rule found; the sources' way is a setting."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    largest = (ann[0](_images())).clamp_min(0).amax(0)
    largest = torch.where(largest > 0, largest, largest.max())
    for spread, share in ((True, 1 / 5), (False, 1.0)):
        snn = st.to_snn(ann, _images(), st.Burst(threshold=st.Max(), spread=spread))
        ((_, neuron),) = snn.neurons()
        torch.testing.assert_close(neuron.threshold, share * largest)


def test_spike_input_sees_the_schedule_of_each_layer() -> None:
    """Of Phase's falling weights, balanced on what arrives: no current lies above its threshold."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    images = _images(16)
    snn = st.to_snn(ann, images, st.Phase(steps=8, threshold=SpikeInput(percent=100)))
    first, second = (neuron for _, neuron in snn.neurons())
    with torch.no_grad():
        current = torch.zeros(8, 16, 6)
        current[0] = images @ ann[0].weight.T + ann[0].bias
        arriving = first(current)[0] @ ann[2].weight.T
        arriving[0] += ann[2].bias
    largest = arriving.clamp_min(0).amax((0, 1))
    largest = torch.where(largest > 0, largest, largest.max())
    torch.testing.assert_close(second.threshold, largest)
