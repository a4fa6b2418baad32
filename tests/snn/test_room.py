"""Memory that runs out: what is said, and that other errors pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import spiketune as st
from spiketune.snn import SpikingNetwork
from spiketune.snn.room import bytes_an_image, free_memory, numbers_of, within_memory
from spiketune.snn.simulation import Simulation


@pytest.fixture
def snn() -> SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return st.to_snn(ann.eval(), torch.rand(16, 4), st.Ternary(steps=8))


def test_the_allocators_own_error_is_understood(snn: SpikingNetwork) -> None:
    with (
        pytest.raises(st.SpiketuneError, match=r"^out of memory with 5 images .* chunks of 2 .*"),
        torch.no_grad(),
        within_memory(snn, torch.rand(5, 4), 8, chunk=2),
    ):
        torch.empty(2**54)


def test_other_errors_pass(snn: SpikingNetwork) -> None:
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        within_memory(snn, torch.rand(5, 4), 8, chunk=2),
    ):
        torch.rand(2, 3) @ torch.rand(2, 3)


def test_what_an_image_needs(snn: SpikingNetwork) -> None:
    # Behind the stem: 8 and 6 spikes, 6 and 3 currents, of 4 bytes.
    assert bytes_an_image(snn, 8, chunk=8, training=True) == 8 * 4 * (8 + 6 + 6 + 3)
    assert bytes_an_image(snn, 8, chunk=2, training=False) == 4 * (8 + 6 + 2 * 2 * 8)


def test_what_is_no_tensor_needs_nothing() -> None:
    assert numbers_of(5) == numbers_of(None) == 0  # as a size that a network reads
    assert numbers_of([torch.Size([2, 3]), torch.Size([4]), 7]) == 10


def full(self: Simulation, steps: int) -> Any:
    raise torch.OutOfMemoryError("full")


def test_simulation_and_training_say_what_would_fit(
    snn: SpikingNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Simulation, "advance", full)
    monkeypatch.setattr("spiketune.snn.room.free_memory", lambda device: 10 * 8 * 4 * 23)
    with torch.no_grad(), pytest.raises(st.SpiketuneError, match=r"smaller batch, or unroll"):
        snn(torch.rand(2, 4))
    loader = DataLoader(TensorDataset(torch.rand(8, 4), torch.zeros(8).long()), 4)
    words = r"with 4 images at once over 8 steps.* about 10 would fit; .*pack_spikes=True.*SLTT"
    with pytest.raises(st.SpiketuneError, match=words):
        st.tune(snn, loader, st.SurrogateBPTT(), steps=8, epochs=1)


def test_free_memory_is_told() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
