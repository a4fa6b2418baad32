"""A stem for small images, which leave nothing to throw away before the first block."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from timm.models.resnet import ResNet
from torch import nn

from .errors import ModelError

__all__ = ["small_stem"]


def small_stem(ann: nn.Module, stride: int = 1) -> ResNet:
    """Return a copy of a timm ResNet with a 3x3 convolution for a stem and no max-pool.

    timm's own stems divide height and width by 4 before the first block.

    Args:
        ann: any ``timm.models.resnet.ResNet``.
        stride: of the convolution; 1 keeps every pixel.

    Returns:
        The network; the new convolution is drawn as timm draws its own, all else is copied.

    Raises:
        ModelError: on another network, or a stride below 1.

    Example:
        >>> import timm, torch
        >>> ann = small_stem(timm.create_model("test_resnet", in_chans=1), stride=2)
        >>> list(ann.maxpool(ann.act1(ann.bn1(ann.conv1(torch.rand(2, 1, 28, 28))))).shape)
        [2, 32, 14, 14]
    """
    if not isinstance(ann, ResNet):
        raise ModelError(
            f"{type(ann).__name__} is no timm ResNet, so its stem is not known; give the network's "
            "own image size instead of a stem"
        )
    if stride < 1:
        raise ModelError(f"the stride of a stem must be at least 1, not {stride}")
    net: Any = deepcopy(ann)
    first = next(module for module in net.conv1.modules() if isinstance(module, nn.Conv2d))
    stem = nn.Conv2d(
        first.in_channels, net.bn1.num_features, 3, stride=stride, padding=1, bias=False
    ).to(first.weight)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    net.conv1, net.maxpool = stem, nn.Identity()
    small: ResNet = net
    return small
