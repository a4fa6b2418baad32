"""Batches of test images and labels, checked while they go by."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError


class Batches:
    """Iterate a loader again for every model, and make sure that it gives the same every time.

    Models are compared image by image, so order and pixels must not change between passes.

    Args:
        loader: re-iterable; yields ``(x, y, ...)``.

    Raises:
        SpiketuneError: if the loader can be iterated only once.

    Example:
        >>> batches = Batches([(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))])
        >>> [len(labels) for images, labels in batches]
        [4]
    """

    def __init__(self, loader: Iterable[Sequence[Any]]) -> None:
        # By type, not by iter(): that would start a DataLoader's workers.
        if isinstance(loader, Iterator):
            raise SpiketuneError(
                f"the loader is a one-shot iterator ({type(loader).__name__}), but every model "
                "reads it from the start; give the DataLoader itself, or list(...) of the iterator"
            )
        self._loader = loader
        self._marks: list[int] = []
        self._first_pass = True

    def __len__(self) -> int:
        """Return the number of batches, 0 where the loader does not know it."""
        return len(self._loader) if isinstance(self._loader, Sized) else 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = found = 0
        for count, batch in enumerate(self._loader, start=1):
            images, labels = _pair(batch)
            self._compare(count - 1, _fingerprint(images, labels))
            found += len(images)
            if len(images) > 0:
                yield images, labels
        if found == 0:
            raise SpiketuneError("the loader is empty; give at least one batch (images, labels)")
        if count != len(self._marks):
            raise _changed()
        self._first_pass = False

    def _compare(self, place: int, mark: int) -> None:
        if self._first_pass:
            self._marks.append(mark)
        elif place >= len(self._marks) or self._marks[place] != mark:
            raise _changed()


def _changed() -> SpiketuneError:
    return SpiketuneError(
        "the loader gave other images the second time, so models cannot be compared image by "
        "image; turn off shuffling and random augmentation"
    )


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    pair = isinstance(batch, tuple | list) and len(batch) >= 2
    if not pair or not all(isinstance(part, Tensor) for part in batch[:2]):
        raise SpiketuneError(
            f"a batch must be (images, labels, ...), two tensors, but the loader gave a "
            f"{_shape_of(batch)}; wrap the data set so that it returns such pairs"
        )
    images, labels = batch[:2]
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape != images.shape[:1] or images.dim() == 0 or not whole:
        raise SpiketuneError(
            f"labels must be one whole number an image, but images of shape {list(images.shape)} "
            f"came with labels of shape {list(labels.shape)} and type {labels.dtype}; give class "
            "indices, not one-hot rows"
        )
    return images, labels


def _shape_of(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return (
            f"{type(batch).__name__} of {', '.join(type(p).__name__ for p in batch) or 'nothing'}"
        )
    return type(batch).__name__


def _fingerprint(images: Tensor, labels: Tensor) -> int:
    mark = zlib.crc32(repr((tuple(images.shape), images.dtype)).encode())
    for part in (images, labels):
        plain = part.detach().cpu().contiguous().flatten().view(torch.uint8)
        mark = zlib.crc32(plain.numpy().data, mark)
    return mark
