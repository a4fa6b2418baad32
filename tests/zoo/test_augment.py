"""Policies of timm that change training images at random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spiketune.zoo import colour, load_data
from spiketune.zoo.errors import DataError


def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / name).mkdir(parents=True)
        picture().save(tmp_path / name / "0.png")
    return tmp_path


def drawn(images: Any) -> torch.Tensor:
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    return torch.stack([images[0][0] for _ in range(4)])


def test_a_policy_changes_photographs_beyond_crops_and_flips(photographs: Path) -> None:
    cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def load(augment: bool | str) -> torch.Tensor:
        return drawn(load_data("folder", "train", photographs, cfg=cfg, augment=augment))

    still, moved, policy = load(False), load(True), load("rand-m9-mstd0.5")
    assert still.shape == moved.shape == policy.shape == (4, 3, 32, 32)
    assert torch.equal(still[0], still[1]) and not torch.equal(moved[0], moved[1])
    assert not torch.equal(policy, moved) and torch.equal(policy, load("rand-m9-mstd0.5"))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "augmix-m3-w2", "original"])
def test_a_policy_changes_cifar(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader(list[Any]):
        """Stands for torchvision's, whose files are not at hand."""

        base_folder = "none"

        def __init__(self, place: Path, train: bool, transform: Any) -> None:
            self.transform = transform

        def __getitem__(self, index: Any) -> Any:
            return self.transform(picture().resize((32, 32))), 0

    monkeypatch.setitem(colour.CIFAR, "cifar10", Reader)
    monkeypatch.setattr(colour, "find_or_fetch", lambda *_: Path())
    moved, changed = (drawn(load_data("cifar10", "train", augment=how)) for how in (True, policy))
    assert moved.shape == changed.shape == (4, 3, 32, 32)
    assert not torch.equal(moved, changed)


@pytest.mark.parametrize(
    ("name", "split", "policy", "message"),
    [
        ("digits", "train", "rand-m9", "augment='rand-m9' is for colour images"),
        ("cifar10", "train", "foo", "no policy that timm knows, give one such as rand-m9"),
        ("cifar10", "test", "rand-m9", "for training images"),
    ],
)
def test_a_policy_that_cannot_act_is_refused(
    name: str, split: Any, policy: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(name, split, augment=policy, download=False)
