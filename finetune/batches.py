"""Check what a loader yields, before a wrong label or an unscaled image trains anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from spiketune.snn import SpikingNetwork, leaves

from .errors import TuneError

Precision = Literal["auto", "float32", "bfloat16"]


class Loader(Protocol):
    """Anything that yields ``(images, labels, ...)`` and knows how often, such as a DataLoader.

    Example:
        >>> batches: Loader = [(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7]))]
        >>> len(batches)
        1
    """

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Start a pass over the data."""

    def __len__(self) -> int:
        """Return the number of batches in a pass."""


@dataclass(frozen=True)
class Place:
    """Where and in which precision the network runs, and how many classes it tells apart."""

    device: torch.device
    dtype: torch.dtype
    autocast: bool
    classes: int

    def precision(self) -> AbstractContextManager[object]:
        """Return the context in which the network runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)


def find_place(snn: SpikingNetwork, device: torch.device | None, precision: Precision) -> Place:
    """Move the network to ``device`` and return where it is.

    Raises:
        TuneError: on an unknown precision, or a network that is no classifier.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise TuneError(f"precision must be auto, float32 or bfloat16, not {precision!r}")
    if device is not None:
        snn.to(device)
    like = next(snn.parameters())
    capable = like.device.type == "cuda" and torch.cuda.is_bf16_supported()
    autocast = precision == "bfloat16" or (precision == "auto" and capable)
    with torch.no_grad():
        answer = snn.eval().ann(like.new_zeros(1, *snn.input_shape))
    if not isinstance(answer, Tensor):
        raise TuneError(
            f"the network answers {len(list(leaves(answer)))} tensors to one image, not one "
            "[1, classes]; only classifiers can be tuned: convert the network with its classifier, "
            "in timm without features_only"
        )
    if answer.dim() != 2:
        raise TuneError(
            f"the network answers {list(answer.shape)} to one image, not [1, classes]; "
            "only classifiers can be tuned"
        )
    return Place(like.device, like.dtype, autocast, answer.shape[1])


def count(loader: Loader, name: str = "loader") -> int:
    """Return the number of batches in a pass over the loader.

    Raises:
        TuneError: if it is empty or does not know.
    """
    try:
        batches = len(loader)
    except TypeError as error:
        raise TuneError(
            f"the {name} has no length, so the schedule cannot be laid out; give a DataLoader "
            "over a data set with a length, or a list of batches"
        ) from error
    if batches < 1:
        raise TuneError(f"the {name} is empty; check the data set and drop_last")
    return batches


def require_images(images: object) -> None:
    """Refuse what is no batch of images, such as a loader of them.

    Raises:
        TuneError: saying how to take a batch from a loader.
    """
    if not isinstance(images, Tensor):
        raise TuneError(
            f"images of type {type(images).__name__}, not a tensor [N, C, H, W]; of a loader of "
            "(images, labels) give a batch, next(iter(loader))[0]"
        )
    if not len(images):
        raise TuneError("no images; give some of the training set")


def outline(loader: Loader) -> dict[str, object]:
    """Return what tells one loader from another at a glance; None for what it does not say.

    Samplers are told by their type and by the settings of theirs that change the order.

    Example:
        >>> outline([(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7]))])["batches"]
        1
        >>> from torch.utils.data import DataLoader
        >>> outline(DataLoader([0, 1, 2], 2, shuffle=True))["sampler"]
        'RandomSampler(replacement=False)'
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(batch_sampler, "sampler", getattr(loader, "sampler", None))
    data = getattr(loader, "dataset", None)
    return {
        "batches": len(loader),
        "images": len(data) if isinstance(data, Sized) else None,
        "batch_size": _first("batch_size", loader, batch_sampler),
        "drop_last": _first("drop_last", batch_sampler, loader),
        "sampler": _brief(sampler),
        "batch_sampler": None if batch_sampler is None else type(batch_sampler).__name__,
    }


def _first(name: str, *holders: object) -> int | None:
    found = (getattr(holder, name, None) for holder in holders)
    return next((value for value in found if isinstance(value, int)), None)


def _brief(sampler: object) -> str | None:
    if sampler is None:
        return None
    held = {name: getattr(sampler, name, None) for name in ("shuffle", "replacement", "seed")}
    said = [f"{name}={value}" for name, value in held.items() if isinstance(value, int)]
    return f"{type(sampler).__name__}({', '.join(said)})"


def counted(loader: Loader, batches: int, where: str) -> Iterator[Sequence[Tensor]]:
    """Yield a pass over the loader and hold it to the number of batches that it announced.

    Raises:
        TuneError: if it ends early or goes on, naming both numbers.

    Example:
        >>> list(counted([(torch.zeros(1),)], 2, "epoch 1"))
        Traceback (most recent call last):
        ...
        spiketune.finetune.errors.TuneError: epoch 1: the loader announced 2 batches and ended ...
    """
    remedy = "make its len() the number of batches that it yields"
    number = 0
    for number, batch in enumerate(loader, 1):
        if number > batches:
            raise TuneError(
                f"{where}: the loader announced {batches} batches and yields at least {number}; "
                f"{remedy}"
            )
        yield batch
    if number < batches:
        raise TuneError(
            f"{where}: the loader announced {batches} batches and ended after {number}; {remedy}"
        )


def unpack(batch: Sequence[Tensor], place: Place, where: str) -> tuple[Tensor, Tensor]:
    """Return images and labels on the network's device, checked.

    Labels are class numbers ``[B]``, or shares of the classes ``[B, classes]`` where the loader
    mixes images itself.

    Raises:
        TuneError: naming the batch, on anything but scaled images and labels in range.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise TuneError(
            f"{where}: the loader yields no (images, labels) but {type(batch).__name__}"
        )
    images, labels = batch[0], batch[1]
    if not len(images):
        raise TuneError(f"{where}: the batch holds no images; use drop_last or check the sampler")
    if not images.is_floating_point():
        raise TuneError(
            f"{where}: images of type {images.dtype}; scale them to floats as for the conversion"
        )
    if not bool(images.isfinite().all()):
        raise TuneError(f"{where}: the images hold NaN or infinity; check their preprocessing")
    if labels.dim() == 2 and labels.is_floating_point():
        labels = _shares(labels, len(images), place, where)
    else:
        labels = _numbers(labels, len(images), place, where)
    images = images.to(place.device, place.dtype, non_blocking=True)
    return images, labels.to(place.device, non_blocking=True)


def _numbers(labels: Tensor, images: int, place: Place, where: str) -> Tensor:
    if labels.shape != (images,) or labels.is_floating_point():
        raise TuneError(
            f"{where}: labels of shape {list(labels.shape)} and type {labels.dtype} for "
            f"{images} images; give one class number an image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= place.classes:
        raise TuneError(
            f"{where}: label {low if low < 0 else high}, but the network tells {place.classes} "
            f"classes apart, 0 to {place.classes - 1}; renumber the labels or give the network "
            "another last layer"
        )
    return labels.to(torch.int64)


def _shares(labels: Tensor, images: int, place: Place, where: str) -> Tensor:
    if labels.shape != (images, place.classes):
        raise TuneError(
            f"{where}: mixed labels of shape {list(labels.shape)} for {images} images and "
            f"{place.classes} classes; give one share a class"
        )
    if bool((labels < 0).any()) or not torch.allclose(
        labels.sum(1), labels.new_ones(()), atol=1e-2
    ):
        raise TuneError(
            f"{where}: the shares in mixed labels must be 0 or more and add up to 1; check what "
            "mixes them"
        )
    return labels.to(place.dtype)
