"""The calibration images, in whatever form they are given."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError


def collect(images: Tensor | Iterable[object], limit: int) -> Tensor:
    """Return up to ``limit`` calibration images as one tensor.

    Args:
        images: a tensor ``[N, C, H, W]`` or a loader of tensors or ``(x, ...)``.
        limit: how many at most.

    Raises:
        SpiketuneError: if there is none, or if one holds NaN or infinity.

    Example:
        >>> collect([(torch.rand(4, 1, 8, 8), None)] * 3, limit=10).shape
        torch.Size([10, 1, 8, 8])
    """
    batches: list[Tensor] = []
    count = 0
    if not isinstance(images, Tensor | Iterable):
        raise SpiketuneError(
            f"calibration images of type {type(images).__name__}; give a tensor [N, C, H, W] or a "
            "loader"
        )
    for batch in [images] if isinstance(images, Tensor) else images:
        x = batch if isinstance(batch, Tensor) else _first(batch)
        if x.dim() < 2 or not x.is_floating_point():
            raise SpiketuneError(
                f"calibration images of shape {list(x.shape)} and type {x.dtype}; give them as "
                "floats [N, C, H, W], scaled as for the network"
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


def _first(batch: object) -> Tensor:
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    raise SpiketuneError(
        f"the calibration loader yields {type(batch).__name__}; make it yield tensors or (x, ...)"
    )
