"""The calibration images, in whatever form they are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from spiketune.snn import SpiketuneError

Images = Tensor | Iterable[object] | Dataset[Any]


def collect(images: Images, limit: int) -> Tensor:
    """Return up to ``limit`` calibration images as one tensor.

    Args:
        images: a tensor ``[N, C, H, W]``, a loader of tensors or ``(x, ...)``, or a data set of
            such single images.
        limit: how many at most: the first of a loader, and of a data set some from all over it.

    Raises:
        SpiketuneError: if there is none, or if one holds NaN or infinity.

    Example:
        >>> collect([(torch.rand(4, 1, 8, 8), None)] * 3, limit=10).shape
        torch.Size([10, 1, 8, 8])
    """
    batches: list[Tensor] = []
    count = 0
    for x in _batches(images, limit):
        if x.dim() < 2 or not x.is_floating_point():
            raise SpiketuneError(
                f"calibration images of shape {list(x.shape)} and type {x.dtype}; give them as "
                "floats [N, C, H, W], scaled as for the network"
            )
        if x.layout is not torch.strided or x.is_meta:
            raise SpiketuneError(
                f"calibration images of layout {x.layout} on {x.device}; give dense ones with "
                "values"
            )
        batches.append(x[: limit - count])
        count += len(batches[-1])
        if count >= limit:
            break
    if count == 0:
        raise SpiketuneError(
            "no calibration images: the tensor or loader is empty; give some training images"
        )
    sizes = {tuple(batch.shape[1:]) for batch in batches}
    if len(sizes) > 1:
        raise SpiketuneError(
            f"calibration images of several shapes ({sorted(sizes)[:2]}); resize them to one"
        )
    found = torch.cat(batches)
    finite = found.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise SpiketuneError(
            f"calibration image {first} holds NaN or infinity; check the images' preprocessing"
        )
    return found


def _batches(images: object, limit: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield images
    elif isinstance(images, Dataset):
        for sample in _samples(images, limit):
            yield _first(sample, "data set").unsqueeze(0)
    elif isinstance(images, Iterable) and not hasattr(images, "__array__"):
        for batch in images:
            yield _first(batch, "loader")
    else:
        raise SpiketuneError(
            f"calibration images of type {type(images).__name__}; give a tensor [N, C, H, W], a "
            "loader or a data set"
        )


def _samples(dataset: Dataset[Any], limit: int) -> Iterator[object]:
    if isinstance(dataset, IterableDataset):
        yield from dataset
        return
    if not isinstance(dataset, Sized):
        raise SpiketuneError(
            f"the calibration data set {type(dataset).__name__} has no length; give a loader of it"
        )
    # From all over it: folders are sorted by class, and the first images would be of one.
    count = min(limit, len(dataset))
    for number in range(count):
        yield dataset[number * len(dataset) // count]


def _first(batch: object, source: str) -> Tensor:
    found = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(found, Tensor):
        raise SpiketuneError(
            f"the calibration {source} yields {type(found).__name__}; make it yield tensors or "
            "(x, ...)"
        )
    return found
