"""The greyscale sets: scikit-learn's digits, and what comes as idx files."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor

from .data_sets import Split
from .errors import DataError
from .idx import read_idx
from .places import find_or_fetch, places

__all__ = ["digits", "idx_images"]

DOWNLOADS = {
    "mnist": torchvision.datasets.MNIST,
    "fashion-mnist": torchvision.datasets.FashionMNIST,
}


def digits(split: Split) -> tuple[Tensor, Tensor]:
    """Load scikit-learn's 8x8 digits, a third of each class kept for the test.

    Args:
        split: ``train`` (1,198 images) or ``test`` (599).

    Returns:
        Images ``[N, 1, 8, 8]`` in [0, 1] and labels ``[N]``.

    Example:
        >>> from spiketune.zoo.grey import digits
        >>> digits("test")[0].shape
        torch.Size([599, 1, 8, 8])
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=0
    )
    x, y = (train_x, train_y) if split == "train" else (test_x, test_y)
    return torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)


def idx_images(
    name: str, split: Split, root: str | Path | None, download: bool
) -> tuple[Tensor, Tensor]:
    """Load MNIST or Fashion-MNIST from idx files.

    Args:
        name: ``mnist`` or ``fashion-mnist``.
        split: ``train`` or ``test``.
        root: The folder to look in first.
        download: Whether torchvision may fetch it.

    Returns:
        Images ``[N, 1, 28, 28]`` in [0, 1] and labels ``[N]``.

    Raises:
        DataError: The files are nowhere, or damaged.

    Example:
        >>> from spiketune.zoo.grey import idx_images
        >>> images, labels = idx_images("mnist", "test", None, True)  # doctest: +SKIP
    """
    stem = "train" if split == "train" else "t10k"
    parts = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")

    def find(place: Path) -> tuple[Path, Path] | None:
        # torchvision keeps its downloads two folders further down.
        for folder in (place, place / "raw", place / DOWNLOADS[name].__name__ / "raw"):
            files = [_existing(folder, part) for part in parts]
            if files[0] is not None and files[1] is not None:
                return files[0], files[1]
        return None

    def fetch(target: Path) -> None:
        DOWNLOADS[name](target, download=True)

    files = find_or_fetch(name, places(name, root), find, fetch if download else None)
    images, labels = map(read_idx, files)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{files[0]} holds {[*images.shape]} and {files[1]} holds {[*labels.shape]} values, "
            "which is not one label an image; fetch both again"
        )
    return images.unsqueeze(1).float() / 255, labels.long()


def _existing(folder: Path, stem: str) -> Path | None:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((file for file in candidates if file.is_file()), None)
