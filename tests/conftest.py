"""One thread for every test, for the nets are tiny; and a converted network as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import spiketune as st

torch.set_num_threads(1)
# What modules draw while they are collected names tests: the same in every process.
torch.manual_seed(0)


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the digits network, converted for two steps, as a file."""
    ann = st.load_ann("digits_resnet")
    images = st.load_data("digits", "train", cfg=ann, limit=64)
    path = tmp_path_factory.mktemp("networks") / "t.safetensors"
    return st.save(st.to_snn(ann, torch.stack([x for x, _ in images]), st.Ternary(steps=2)), path)
