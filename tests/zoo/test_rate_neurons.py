"""The kind of neuron that trains as a rate: what it makes, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.snn import RateLIF, SpiketuneError, soft_lif
from spiketune.zoo import ModelError, RateNeuron


def test_a_network_of_it_stands_for_the_curve() -> None:
    kind = RateNeuron(dt=0.0005, tau_rc=0.03, tau_ref=0.001, gamma=0.1, amplitude=0.02)
    layer = nn.Linear(4, 6)
    nn.init.constant_(layer.bias, 1.5)
    snn = st.twin(nn.Sequential(layer, nn.ReLU6()), 4, (4,), neuron=kind)
    ((_, neuron),) = snn.neurons()
    assert isinstance(neuron, RateLIF) and neuron.threshold.item() == pytest.approx(40.0)
    x = torch.rand(5, 4)
    expected = soft_lif(layer(x), tau_rc=0.03, tau_ref=0.001, gamma=0.1, amplitude=0.02)
    assert torch.allclose(snn.ann(x), expected, atol=1e-6)


def test_no_current_fires_it_at_every_step() -> None:
    with pytest.raises(ModelError, match=r"rests after a spike.*connect='add'"):
        RateNeuron().drive()
    spikes, _ = RateNeuron().make(steps=9)(torch.full((9, 1), 1e6))
    assert spikes.count_nonzero() < 9


@pytest.mark.parametrize("name", ["dt", "amplitude"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_sizes_that_are_not_above_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"^{name} must be above 0"):
        RateNeuron(**{name: value})  # type: ignore[arg-type]


def test_a_step_longer_than_the_rest_is_refused() -> None:
    with pytest.raises(SpiketuneError, match=r"at most tau_ref=0.002"):
        RateNeuron(dt=0.003)
