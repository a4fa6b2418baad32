"""Look at the activations of every neuron's place over the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from spiketune.snn import Monitor, SpiketuneError, SpikingNetwork

from .thresholds import Histogram

BINS = 2048
BATCH = 64
Granularity = Literal["layer", "channel"]
Progress = Callable[[int, int], None]


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


def histograms(
    snn: SpikingNetwork,
    images: Tensor,
    per: Granularity,
    *,
    bins: int = BINS,
    progress: Progress | None = None,
) -> dict[str, Histogram]:
    """Return the histogram of the activation at each neuron, over all the images.

    Two passes: one for the ranges, one for the counts.

    Args:
        snn: a network whose thresholds do not matter yet.
        images: ``[N, C, H, W]``.
        per: one distribution a ``layer`` or a ``channel``.
        bins: resolution between zero and the maximum.
        progress: called after each batch with how many are done, and how many there are.

    Raises:
        SpiketuneError: if an activation is NaN or infinite.
    """
    ceilings = {name: neuron.ceiling for name, neuron in snn.neurons()}
    maxima: dict[str, Tensor] = {}

    def note_maximum(name: str, current: Tensor) -> None:
        if name in ceilings:
            top = _rows(current, ceilings[name], per).amax(1)
            if not bool(top.isfinite().all()):
                raise SpiketuneError(
                    f"{name}: an activation is not finite on the calibration images; "
                    "check their preprocessing and the network's weights"
                )
            maxima[name] = torch.maximum(maxima[name], top) if name in maxima else top

    batches = torch.split(images, BATCH)
    report = progress or (lambda done, total: None)
    _observe(snn, batches, note_maximum, lambda done: report(done, 2 * len(batches)))
    found = {name: Histogram.empty(top, bins) for name, top in maxima.items()}

    def count(name: str, current: Tensor) -> None:
        if name in found:
            found[name] = found[name].add(_rows(current, ceilings[name], per))

    _observe(snn, batches, count, lambda done: report(len(batches) + done, 2 * len(batches)))
    return found


def _observe(
    snn: SpikingNetwork,
    batches: Sequence[Tensor],
    observer: Monitor,
    done: Callable[[int], None],
) -> None:
    device = next(snn.parameters()).device
    with torch.no_grad():
        for number, batch in enumerate(batches, 1):
            snn.ann(batch.to(device), observer)
            done(number)


def _rows(current: Tensor, ceiling: float | None, per: Granularity) -> Tensor:
    """Return activations as ``[C, N]``, or ``[1, N]`` for a whole layer."""
    active = current.clamp(0, ceiling)
    return active.flatten().unsqueeze(0) if per == "layer" else active.transpose(0, 1).flatten(1)
