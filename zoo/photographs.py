"""The photographs that scikit-learn and scikit-image carry: real pictures without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .colour import image_transform
from .data_sets import DATA, cfg_of
from .errors import DataError

__all__ = ["photographs"]

Picture = NDArray[np.uint8]
# Each crop is a square: its side as a share of the shorter side, and where its slack goes.
CROPS = {
    "whole": (1.0, 0.5, 0.5),
    "centre": (0.6, 0.5, 0.5),
    "top-left": (0.75, 0.0, 0.0),
    "top-right": (0.75, 0.0, 1.0),
    "bottom-left": (0.75, 1.0, 0.0),
    "bottom-right": (0.75, 1.0, 1.0),
}


def photographs(cfg: Mapping[str, object] | nn.Module) -> tuple[Tensor, list[str]]:
    """Return ten colour photographs in six fixed crops each, prepared for a network.

    They have no labels; they serve to calibrate, and to see whether two networks agree.

    Args:
        cfg: The network, or its ``pretrained_cfg``.

    Returns:
        Images ``[60, C, H, W]``, and a name such as ``chelsea/centre`` for each; the crops of
        one photograph follow one another.

    Raises:
        DataError: scikit-image is not installed.

    Example:
        >>> from spiketune.zoo import photographs
        >>> images, names = photographs({"input_size": (3, 32, 32)})
        >>> images.shape, names[0]
        (torch.Size([60, 3, 32, 32]), 'china/whole')
    """
    transform = image_transform(DATA["folder"], cfg_of(cfg))
    images, names = [], []
    for name, picture in _pictures():
        for crop, (share, down, right) in CROPS.items():
            images.append(transform(_square(picture, share, down, right)))
            names.append(f"{name}/{crop}")
    return torch.stack(images), names


def _pictures() -> Iterator[tuple[str, Picture]]:
    from sklearn.datasets import load_sample_image

    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise DataError(
            "the photographs come with scikit-image, which is not installed, "
            "pip install 'spiketune[imagenet]'"
        ) from error
    # These are in the wheel; scikit-image downloads its other pictures.
    pair: Callable[[], tuple[Picture, ...]] = data.stereo_motorcycle
    shipped: dict[str, Callable[[], Picture]] = {
        "astronaut": data.astronaut,
        "chelsea": data.chelsea,
        "coffee": data.coffee,
        "rocket": data.rocket,
        "motorcycle": lambda: pair()[0],
        "hubble": data.hubble_deep_field,
        "retina": data.retina,
        "tissue": data.immunohistochemistry,
    }
    for name in ("china", "flower"):
        yield name, load_sample_image(f"{name}.jpg")
    for name, read in shipped.items():
        yield name, read()


def _square(picture: Picture, share: float, down: float, right: float) -> Image.Image:
    height, width = picture.shape[:2]
    side = round(min(height, width) * share)
    top, left = round((height - side) * down), round((width - side) * right)
    return Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side, :3]))
