from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from tuning_networks import small_ann, spiking

from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
_MADE: dict[tuple[str, int], SpikingNetwork] = {}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """A task of ten noisy patterns, 8x8 like the digits."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.rand(10, 1, 8, 8, generator=generator)
    labels = torch.arange(80) % 10
    return patterns[labels] + 0.1 * torch.randn(80, 1, 8, 8, generator=generator), labels


@pytest.fixture
def build(data: tuple[Tensor, Tensor]) -> Build:
    """Make a small spiking network, the same for the same arguments."""

    def make(kind: str = "if", *, seed: int = 0) -> SpikingNetwork:
        # Reading a network takes most of a second; a copy takes none.
        key = kind, seed
        if key not in _MADE:
            _MADE[key] = spiking(small_ann(seed), data[0], kind)
        return deepcopy(_MADE[key])

    return make
