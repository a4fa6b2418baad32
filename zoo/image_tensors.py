"""Small greyscale sets, held whole in memory: 60,000 images must cost the loader little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from .data_sets import DataInfo
from .errors import DataError

__all__ = ["ImageTensors", "Preparation", "preparation"]

# Above this an image set is prepared batch by batch: MNIST at 224 pixels would take 12 GB.
EAGER_BYTES = 2**30
SMOOTH = ("bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to greyscale images in [0, 1] before a network sees them.

    Attributes:
        channels: Channels of the network; the grey one is repeated.
        size: Height and width of the network's input.
        mean: Mean to subtract, one a channel.
        std: Standard deviation to divide by, one a channel.
        interpolation: How images of another size are resized.

    Example:
        >>> import torch
        >>> from spiketune.zoo.image_tensors import Preparation
        >>> to = Preparation(channels=1, size=(4, 4), mean=(0.5,), std=(0.5,))
        >>> to(torch.ones(1, 1, 2, 2)).unique()
        tensor([1.])
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """Resize, repeat and normalise ``[N, 1, H, W]``."""
        if tuple(images.shape[-2:]) != self.size:
            mode = self.interpolation if self.interpolation in SMOOTH else "bilinear"
            images = functional.interpolate(images, self.size, mode=mode, antialias=True)
            images = images.clamp(0, 1)  # bicubic overshoots
        mean, std = (images.new_tensor(value).view(-1, 1, 1) for value in (self.mean, self.std))
        return ((images - mean) / std).expand(-1, self.channels, -1, -1)


def preparation(info: DataInfo, cfg: Mapping[str, object] | None) -> Preparation:
    """Work out how a network wants a greyscale set.

    Args:
        info: The data set.
        cfg: The network's ``pretrained_cfg``; without it images stay as they are, normalised by
            the data set's own mean and std.

    Returns:
        The preparation.

    Raises:
        DataError: The configuration has no valid input size.

    Example:
        >>> from spiketune.zoo import data_info
        >>> from spiketune.zoo.image_tensors import preparation
        >>> preparation(data_info("mnist"), None).size
        (28, 28)
    """
    cfg = cfg or {}
    size = cfg.get("input_size", info.input_size)
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise DataError(f"cfg has the input_size {size!r}, give (channels, height, width)")
    channels = int(size[0])
    mean, std = (_values(cfg, key, channels) for key in ("mean", "std"))
    return Preparation(
        channels=channels,
        size=(int(size[1]), int(size[2])),
        mean=mean or info.mean,
        std=std or info.std,
        interpolation=str(cfg.get("interpolation", "bilinear")),
    )


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """A set of greyscale images and labels held in memory.

    Args:
        images: ``[N, 1, H, W]`` in [0, 1].
        labels: ``[N]``, int64.
        classes: The class names.
        prepare: What is done to the images; at once if the result is small enough.
        augment: Whether to move each image by up to a tenth of its size, anew each time.

    Example:
        >>> from spiketune.zoo import load_data
        >>> image, label = load_data("digits", "test")[0]
        >>> image.shape, type(label)
        (torch.Size([1, 8, 8]), <class 'int'>)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        prepare: Callable[[Tensor], Tensor],
        augment: bool = False,
    ) -> None:
        self.labels = labels
        self.classes = classes
        self.shift = math.ceil(min(images.shape[-2:]) / 10) if augment else 0
        self._prepare: Callable[[Tensor], Tensor] | None = prepare
        self._images = images
        if not augment and len(images):
            one = prepare(images[:1])
            if one.numel() * one.element_size() * len(images) <= EAGER_BYTES:
                self._images, self._prepare = prepare(images), None

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images, prepared and not shifted, and all labels."""
        images = self._images if self._prepare is None else self._prepare(self._images)
        return images, self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return a batch; torch's loader asks for it at once instead of image by image."""
        images = self._images[indices]
        if self.shift:
            images = _shifted(images, self.shift)
        if self._prepare is not None:
            images = self._prepare(images)
        return list(zip(images.unbind(), self.labels[indices].tolist(), strict=True))


def _values(cfg: Mapping[str, object], key: str, channels: int) -> tuple[float, ...] | None:
    """Return one value a channel, or nothing where the configuration does not say."""
    values = cfg.get(key)
    if not isinstance(values, list | tuple) or len(values) not in (1, channels):
        return None
    return tuple(float(value) for value in values)


def _shifted(images: Tensor, shift: int) -> Tensor:
    height, width = images.shape[-2:]
    padded = functional.pad(images, [shift] * 4)
    tops, lefts = torch.randint(2 * shift + 1, (2, len(images))).tolist()
    moved = [
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(moved)
