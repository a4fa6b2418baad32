"""What layers in half precision cost: how far answers are from those in single precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import spiketune as st
from spiketune.snn import evaluating


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the answers of a network with layers in bfloat16 compare with its own in float32.

    Attributes:
        images: that were compared.
        same: share of them that are answered with the same class.
        distance: norm of the difference of all answers, over the norm of those in float32.

    Example:
        >>> print(Agreement(images=64, same=0.984375, distance=0.0123))
        the class of 98.4 % of 64 images is that in float32, answers differ by 1.2 % (norm)
    """

    images: int
    same: float
    distance: float

    def __str__(self) -> str:
        return (
            f"the class of {100 * self.same:.3g} % of {self.images} images is that in float32, "
            f"answers differ by {100 * self.distance:.2g} % (norm)"
        )


@torch.no_grad()
def agreement(snn: st.SpikingNetwork, batches: Iterable[Sequence[Any]], steps: int) -> Agreement:
    """Return how answers after ``steps`` steps agree when layers run in bfloat16.

    Args:
        snn: the network, in float32 itself; it is run where it lies.
        batches: images ``[B, C, H, W]`` first in each.
        steps: ``T``.

    Raises:
        SpiketuneError: on no images.

    Example:
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3)).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8))
        >>> agreement(snn, [(torch.rand(5, 4),)], 8).images
        5
    """
    place = next(snn.parameters()).device
    images, same = 0, 0
    difference, size = torch.zeros((), device=place), torch.zeros((), device=place)
    with evaluating(snn):
        for batch in batches:
            x = batch[0].to(place)
            single = snn(x, steps)
            with torch.autocast(place.type, torch.bfloat16):
                half = snn(x, steps)
            images += len(x)
            same += int((single.argmax(1) == half.argmax(1)).sum())
            difference += (half - single).square().sum()
            size += single.square().sum()
    if not images:
        raise st.SpiketuneError("no images to compare answers on; give at least one")
    return Agreement(images=images, same=same / images, distance=float((difference / size).sqrt()))
