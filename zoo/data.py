"""Load a data set by name, prepared for the network that will see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from .colour import Request, cifar, folder, imagenette, require_policy
from .data_sets import Split, cfg_of, data_info
from .errors import DataError
from .event_frames import EventFrames
from .event_sets import SACCADED, event_set, saccaded
from .events import Bins
from .grey import digits, idx_images
from .image_tensors import ImageTensors, preparation
from .recordings import RECORDED
from .saccades import Saccades
from .speech import Hearing
from .speech_sets import CORPORA, speech_set

__all__ = ["load_data"]

Images = Dataset[tuple[Tensor, int]]


def load_data(
    name: str,
    split: Split,
    root: str | Path | None = None,
    *,
    cfg: Mapping[str, object] | nn.Module | None = None,
    limit: int | None = None,
    download: bool = True,
    augment: bool | str = False,
    frames: Bins | Saccades | Hearing | None = None,
) -> Images:
    """Load a data set by name: image tensors ``[C, H, W]``, normalised, and integer labels.

    Of what changes over time, such as ``nmnist`` or ``mnist_saccades``, a sample is frames
    ``[T, P, H, W]``, for a network that ``add_frames`` has prepared.

    It is looked for in ``root``, in ``$SPIKETUNE_DATA``, in the system's places and in
    ``~/.cache/spiketune``; then it is downloaded there.

    Args:
        name: A name that ``list_data`` gives.
        split: ``train`` or ``test``.
        root: The folder to look in first; ``folder`` needs it.
        cfg: The network, or its ``pretrained_cfg``, which decides size, channels, mean, std and
            interpolation; without it the data set's own hold. Of events it decides the number
            and the size of the frames.
        limit: Keep so many images only, drawn evenly at random and always the same ones.
        download: Whether the set may be fetched.
        augment: Whether to shift (greyscale) or crop and flip (colour) training images at random;
            a policy of timm, such as ``rand-m9-mstd0.5``, changes colour images further.
        frames: How data over time become frames: ``Bins`` for recorded events, ``Saccades`` for
            saccades over images, ``Hearing`` for sound.

    Returns:
        The data set. A greyscale one, and one over time, has all it holds in ``tensors``.

    Raises:
        DataError: The set is unknown, nowhere to be found, or damaged.

    Example:
        >>> from spiketune.zoo import load_ann, load_data
        >>> ann = load_ann("digits_resnet")
        >>> test = load_data("digits", "test", cfg=ann)
        >>> len(test), test[0][0].shape
        (599, torch.Size([1, 8, 8]))
    """
    data_info(name)
    if split not in ("train", "test"):
        raise DataError(f"there is no split {split!r}, name train or test")
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}, give a number of images from 1 on")
    if augment and name in OVER_TIME:
        raise DataError(f"augment is for images, leave it out for {name}")
    if augment and split == "test":
        raise DataError("augment is for training images, leave it out for the test split")
    if frames is not None and name not in OVER_TIME:
        raise DataError(f"{name} holds still images, leave frames out")
    if isinstance(augment, str):
        require_policy(augment, colour=name in COLOUR)
    request = Request(
        name=name, split=split, root=root, cfg=cfg_of(cfg), download=download, augment=augment,
        frames=frames,
    )  # fmt: skip
    return LOADERS[name](request, limit)


def _over_time(request: Request, limit: int | None) -> Images:
    def keep(total: int) -> Sequence[int]:
        kept = _kept(total, limit)
        return range(total) if kept is None else kept.tolist()

    return OVER_TIME[request.name](request, keep)


def _grey(request: Request, limit: int | None) -> Images:
    info = data_info(request.name)
    images, labels = GREY[request.name](request)
    kept = _kept(len(images), limit)
    if kept is not None:
        images, labels = images[kept], labels[kept]
    prepare = preparation(info, request.cfg)
    return ImageTensors(images, labels, info.classes, prepare, bool(request.augment))


def _colour(request: Request, limit: int | None) -> Images:
    images = COLOUR[request.name](request)
    kept = _kept(len(cast(Sized, images)), limit)
    return images if kept is None else Subset(images, kept.tolist())


def _kept(total: int, limit: int | None) -> Tensor | None:
    """Draw which images a limit keeps; the first ones of a folder are all of one class."""
    if limit is None or limit >= total:
        return None
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[:limit].sort().values


def _digits(request: Request) -> tuple[Tensor, Tensor]:
    return digits(request.split)


def _idx(request: Request) -> tuple[Tensor, Tensor]:
    return idx_images(request.name, request.split, request.root, request.download)


GREY: dict[str, Callable[[Request], tuple[Tensor, Tensor]]] = {
    "digits": _digits,
    "mnist": _idx,
    "fashion-mnist": _idx,
}
COLOUR: dict[str, Callable[[Request], Images]] = {
    "cifar10": cifar,
    "cifar100": cifar,
    "imagenette": imagenette,
    "folder": folder,
}
OVER_TIME: dict[str, Callable[[Request, Callable[[int], Sequence[int]]], EventFrames]] = {
    **dict.fromkeys(RECORDED, event_set),
    **dict.fromkeys(SACCADED, saccaded),
    **dict.fromkeys(CORPORA, speech_set),
}
LOADERS: dict[str, Callable[[Request, int | None], Images]] = {
    **dict.fromkeys(GREY, _grey),
    **dict.fromkeys(COLOUR, _colour),
    **dict.fromkeys(OVER_TIME, _over_time),
}
