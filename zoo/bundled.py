"""The networks whose weights come with spiketune: one ``Bundled`` entry each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from .checkpoint import read_checkpoint
from .data_sets import data_info
from .errors import ModelError
from .stems import small_stem

__all__ = ["BUNDLED", "WEIGHTS", "Bundled", "build"]

WEIGHTS = Path(__file__).parent / "weights"


def light_stem_resnet(
    layers: tuple[int, ...],
    channels: tuple[int, ...],
    num_classes: int = 1000,
    in_chans: int = 3,
) -> ResNet:
    """Build timm's ``ResNet`` with a 3x3 stem of stride 1 and no max-pool.

    Small images leave nothing to throw away in the stem; timm's own has a stride of 4.

    Args:
        layers: Basic blocks of each stage; at most four stages.
        channels: Channels of each stage; the stem has those of the first.
        num_classes: Classes.
        in_chans: Input channels.

    Returns:
        The network.

    Example:
        >>> from spiketune.zoo.bundled import light_stem_resnet
        >>> light_stem_resnet(layers=(1, 1), channels=(8, 16)).conv1.stride
        (1, 1)
    """
    width = channels[0]
    block: Any = BasicBlock  # timm's annotation asks for an instance, its code for the class
    model = ResNet(
        block,
        layers,
        num_classes=num_classes,
        in_chans=in_chans,
        channels=channels,
        # timm's deep stem ends in twice its width; its three convolutions give way to one.
        stem_type="deep",
        stem_width=width // 2,
    )
    model = small_stem(model)
    for stage in range(len(channels) + 1, 5):
        model.add_module(f"layer{stage}", nn.Identity())  # timm's forward calls all four
    return model


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A network of timm's building blocks and the file of its weights.

    Attributes:
        network: Builds it from ``num_classes`` and ``in_chans``.
        data: The data set it was trained on; decides classes, input size, mean and std.
        sha256: The digest of ``weights/<name>.safetensors``.
        note: One line for ``spiketune models``.

    Example:
        >>> from spiketune.zoo.bundled import BUNDLED
        >>> BUNDLED["digits_resnet"].data
        'digits'
    """

    network: Callable[..., nn.Module]
    data: str
    sha256: str
    note: str

    def config(self, name: str) -> dict[str, object]:
        """Return timm's configuration: what the network expects and where its ends are."""
        data = data_info(self.data)
        return {
            "architecture": name,
            "input_size": data.input_size,
            "num_classes": data.num_classes,
            "mean": data.mean,
            "std": data.std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "apache-2.0",
        }


BUNDLED: dict[str, Bundled] = {
    "digits_resnet": Bundled(
        network=partial(light_stem_resnet, layers=(1, 1, 1), channels=(16, 32, 64)),
        data="digits",
        sha256="161095064cc8b12f84a46c6d6ffd074ee0ba0a51d24788f11d898e9c301cc7ce",
        note="small residual network for scikit-learn's 8x8 digits",
    ),
}


def build(name: str, pretrained: bool, num_classes: int | None, in_chans: int | None) -> nn.Module:
    """Build a bundled network, with its weights if asked.

    Args:
        name: A key of ``BUNDLED``.
        pretrained: Whether to load the bundled weights.
        num_classes: Classes; another number than the data set's gives a new head.
        in_chans: Input channels; another number adapts the stem as timm does.

    Returns:
        The network.

    Raises:
        ModelError: The weight file is missing or is not the one that was published.

    Example:
        >>> from spiketune.zoo.bundled import build
        >>> build("digits_resnet", True, None, None).num_classes
        10
    """
    entry = BUNDLED[name]
    config = entry.config(name)
    if pretrained:
        config["state_dict"] = read_checkpoint(_verified(name, entry.sha256))
    given: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    model: nn.Module = build_model_with_cfg(
        entry.network,
        name,
        pretrained,
        pretrained_cfg=config,
        **{key: value for key, value in given.items() if value is not None},
    )
    return model


def _verified(name: str, sha256: str) -> Path:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise ModelError(f"the bundled weights {path} are missing, install spiketune again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ModelError(
            f"the bundled weights {path} have the checksum {found[:12]}... instead of "
            f"{sha256[:12]}..., install spiketune again or pass the file with checkpoint= "
            "(--checkpoint on the command line)"
        )
    return path
