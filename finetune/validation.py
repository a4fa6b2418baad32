"""Accuracy on images that nothing is learned from."""

from __future__ import annotations

import torch

from spiketune.snn import SpikingNetwork

from .batches import Loader, Place, counted, unpack
from .distributed import Processes, distributes
from .mixing import right_classes


def accuracy(
    network: SpikingNetwork, loader: Loader, steps: int, place: Place, processes: Processes
) -> float:
    """Return the share of a loader's images that the network answers rightly after ``steps``.

    Processes that all see the same batches take turns, so that no image is counted twice.
    """
    every = 1 if distributes(loader) else processes.count
    right = images = 0
    with torch.no_grad(), place.precision():
        for number, raw in enumerate(counted(loader, len(loader), "validation")):
            if number % every == processes.rank % every:
                x, labels = unpack(raw, place, f"validation batch {number + 1}")
                right += int((network(x, steps).argmax(1) == right_classes(labels)).sum())
                images += len(x)
    all_right, all_images = processes.total(float(right), float(images))
    return all_right / all_images
