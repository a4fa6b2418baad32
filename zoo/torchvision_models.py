"""The classification networks of torchvision, described the way timm describes its own."""

from __future__ import annotations

import torchvision.models
from torch import nn

from .errors import TORCHVISION_ERRORS, ModelError
from .timm_models import no_download

__all__ = ["PREFIX", "build", "names"]

PREFIX = "torchvision/"
CLASSES = 1000
# These two rescale their input inside the network; only their weights' own option says so.
RESCALING = ("googlenet", "inception_v3")


def names() -> list[str]:
    """List torchvision's classification networks.

    Returns:
        Names with the ``torchvision/`` prefix.

    Example:
        >>> from spiketune.zoo.torchvision_models import names
        >>> "torchvision/resnet18" in names()
        True
    """
    return [PREFIX + name for name in torchvision.models.list_models(module=torchvision.models)]


def build(name: str, pretrained: bool, num_classes: int | None, in_chans: int | None) -> nn.Module:
    """Build a torchvision network, with torchvision's default weights if asked.

    Args:
        name: A name that ``names`` gives.
        pretrained: Whether to fetch the weights.
        num_classes: Classes; another number than 1000 gives a new head.
        in_chans: Input channels; torchvision's networks take 3 only.

    Returns:
        The network, with ``pretrained_cfg`` made from the weights' own transforms.

    Raises:
        ModelError: Other channels are asked for, or the weights cannot be fetched.

    Example:
        >>> from spiketune.zoo.torchvision_models import build
        >>> build("torchvision/squeezenet1_1", False, 10, None).pretrained_cfg["crop_pct"]
        0.875
    """
    short = name.removeprefix(PREFIX)
    if in_chans not in (None, 3):
        raise ModelError(
            f"{name} takes 3 input channels and not {in_chans}, "
            "leave in_chans= out or use the timm network of that family"
        )
    config = _config(short)
    classes = CLASSES if num_classes is None else num_classes
    options = _options(short, config)
    if not pretrained:
        model: nn.Module = torchvision.models.get_model(
            short, weights=None, num_classes=classes, **options
        )
    else:
        model = _fetched(name, short, classes, options)
    vars(model)["pretrained_cfg"] = {**config, "num_classes": classes}
    return model


def _fetched(name: str, short: str, classes: int, options: dict[str, object]) -> nn.Module:
    try:
        full: nn.Module = torchvision.models.get_model(short, weights="DEFAULT", **options)
    except TORCHVISION_ERRORS as error:
        raise no_download(name, error) from error
    if classes == CLASSES:
        return full
    model: nn.Module = torchvision.models.get_model(
        short, weights=None, num_classes=classes, **options
    )
    own = model.state_dict()
    # Only the classifier's shape depends on the classes; the fresh one stays.
    kept = {k: v for k, v in full.state_dict().items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(kept, strict=False)
    return model


def _options(short: str, config: dict[str, object]) -> dict[str, object]:
    """Return what the weights imply about the network, for builds that do without them."""
    if short in RESCALING:
        return {"transform_input": True}
    if short.startswith("vit_"):
        size = config["input_size"]
        return {"image_size": size[-1]} if isinstance(size, tuple) else {}
    return {}


def _config(short: str) -> dict[str, object]:
    weights = torchvision.models.get_model_weights(short).DEFAULT
    transforms = weights.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return {
        "architecture": short,
        "tag": weights.name.lower(),
        "source": "torchvision",
        "input_size": (3, crop, crop),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
        "crop_pct": crop / resize,
        "crop_mode": "center",
    }
