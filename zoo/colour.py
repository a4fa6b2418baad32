"""The colour sets: torchvision's readers, with the transforms a network was trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from timm.data.auto_augment import (
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from .data_sets import DATA, DataInfo, Split
from .errors import DataError
from .places import find_or_fetch, places

__all__ = ["Request", "cifar", "folder", "image_transform", "imagenette", "require_policy"]

IMAGENET_CLASSES = 1000
SUBFOLDERS = {"train": ("train",), "test": ("val", "test", "validation")}
CIFAR = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
}
Images = Dataset[tuple[Tensor, int]]
# timm has no types for it.
_resolved: Callable[..., dict[str, Any]] = resolve_data_config


@dataclass(frozen=True, kw_only=True)
class Request:
    """What ``load_data`` was asked for.

    Attributes:
        name: The data set.
        split: ``train`` or ``test``.
        root: The folder the user named.
        cfg: The network's ``pretrained_cfg``.
        download: Whether the set may be fetched.
        augment: Whether to crop and flip at random; a policy of timm changes them further.
        frames: How data over time are cut into frames.

    Example:
        >>> from spiketune.zoo.colour import Request
        >>> Request(name="cifar10", split="train").augment
        False
    """

    name: str
    split: Split
    root: str | Path | None = None
    cfg: Mapping[str, object] | None = None
    download: bool = True
    augment: bool | str = False
    frames: object = None


def cifar(request: Request) -> Images:
    """Load CIFAR-10 or CIFAR-100.

    torchvision checks the files' published checksums before it opens them.

    Args:
        request: What was asked for.

    Returns:
        The images with their labels.

    Raises:
        DataError: The files are nowhere, or damaged.

    Example:
        >>> from spiketune.zoo.colour import Request, cifar
        >>> images = cifar(Request(name="cifar10", split="test"))  # doctest: +SKIP
    """
    reader = CIFAR[request.name]
    transform = image_transform(DATA[request.name], request.cfg)
    if request.augment:
        # At the images' own size, as every published CIFAR result does it.
        moved = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        if isinstance(request.augment, str):
            moved.append(_policy(request.augment, 32))
        transform = transforms.Compose([*moved, transform])

    def find(place: Path) -> Path | None:
        if (place / reader.base_folder).is_dir():
            return place
        return place.parent if place.name == reader.base_folder and place.is_dir() else None

    def fetch(target: Path) -> None:
        reader(target, download=True)

    looked = places(request.name, request.root)
    place = find_or_fetch(request.name, looked, find, fetch if request.download else None)
    try:
        found: Images = reader(place, train=request.split == "train", transform=transform)
    except RuntimeError as error:
        raise DataError(
            f"{place / reader.base_folder} is damaged or incomplete (a checksum differs), "
            "fetch it again"
        ) from error
    return found


def imagenette(request: Request) -> Images:
    """Load Imagenette: ten easy classes of ImageNet.

    Args:
        request: What was asked for; a network with 1,000 classes gets ImageNet's own labels.

    Returns:
        The images with their labels.

    Raises:
        DataError: The folder is nowhere.

    Example:
        >>> from spiketune.zoo.colour import Request, imagenette
        >>> images = imagenette(Request(name="imagenette", split="test"))  # doctest: +SKIP
    """

    def find(place: Path) -> Path | None:
        inner = (place / name for name in ("imagenette2", "imagenette2-320", "imagenette2-160"))
        return next((each for each in (place, *inner) if _has_wnids(each)), None)

    def fetch(target: Path) -> None:
        torchvision.datasets.Imagenette(target, size="320px", download=True)

    looked = places(request.name, request.root)
    place = find_or_fetch(request.name, looked, find, fetch if request.download else None)
    return _class_folders(place, request)


def folder(request: Request) -> Images:
    """Load photographs from one folder a class.

    Args:
        request: What was asked for; ``root`` holds ``train`` and ``val`` or ``test``. Folders
            named by WordNet ids get ImageNet's own labels for a network with 1,000 classes.

    Returns:
        The images with their labels; the names of the classes in ``classes``.

    Raises:
        DataError: The folders are missing or hold no images.

    Example:
        >>> from spiketune.zoo.colour import Request, folder
        >>> images = folder(Request(name="folder", split="test", root="my"))  # doctest: +SKIP
    """
    if request.root is None:
        raise DataError(
            "folder needs root= (--root on the command line), the folder that holds train/ and "
            "val/ or test/"
        )
    return _class_folders(Path(request.root).expanduser(), request)


def image_transform(
    info: DataInfo, cfg: Mapping[str, object] | None, augment: bool | str = False
) -> Callable[[object], Tensor]:
    """Build what turns a picture into the tensor a network was trained on.

    Args:
        info: The data set; decides where ``cfg`` is not given.
        cfg: The network's ``pretrained_cfg``.
        augment: Whether to crop and flip at random, as for training on ImageNet; or a policy of
            timm that changes the images further.

    Returns:
        A function of a PIL image.

    Raises:
        DataError: The network takes neither 1 nor 3 channels.

    Example:
        >>> from PIL import Image
        >>> from spiketune.zoo import data_info
        >>> from spiketune.zoo.colour import image_transform
        >>> image_transform(data_info("cifar10"), None)(Image.new("RGB", (32, 32))).shape
        torch.Size([3, 32, 32])
    """
    own: dict[str, object] = {"input_size": info.input_size, "mean": info.mean, "std": info.std}
    if info.input_size[-1] <= 32:
        own["crop_pct"] = 1.0  # The images are small already; nothing of them is cut away.
    config = _resolved(pretrained_cfg=dict(own if cfg is None else cfg))
    channels = config["input_size"][0]
    if channels not in (1, 3):
        raise DataError(f"the network takes {channels} channels, {info.name} needs one with 1 or 3")
    if augment:
        policy = augment if isinstance(augment, str) else None
        made = create_transform(**config, is_training=True, color_jitter=0.0, auto_augment=policy)
    else:
        made = create_transform(**config)
    picture = transforms.Grayscale() if channels == 1 else transforms.Lambda(_rgb)
    transform: Callable[[object], Tensor] = transforms.Compose([picture, made])
    return transform


def require_policy(policy: str, *, colour: bool) -> None:
    """Refuse a policy of augmentation that timm does not know, or images it is not made for.

    Args:
        policy: As ``augment`` takes it.
        colour: Whether the data set has colours.

    Raises:
        DataError: Naming what there is.

    Example:
        >>> from spiketune.zoo.colour import require_policy
        >>> require_policy("rand-m9-mstd0.5", colour=True)
    """
    if not colour:
        raise DataError(
            f"augment={policy!r} is for colour images, give augment=True to shift these"
        )
    try:
        _policy(policy, 32)
    except (AssertionError, ValueError, KeyError) as error:
        raise DataError(
            f"augment={policy!r} is no policy that timm knows, give one such as rand-m9-mstd0.5, "
            "augmix-m3-w3 or original"
        ) from error


def _policy(policy: str, size: int) -> Callable[[object], object]:
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    make: Callable[..., Callable[[object], object]] = makers.get(
        policy.split("-")[0], auto_augment_transform
    )
    return make(policy, {"translate_const": int(0.45 * size)})


def _rgb(image: object) -> object:
    convert = getattr(image, "convert", None)
    return image if convert is None else convert("RGB")


def _has_wnids(place: Path) -> bool:
    return any((place / split / "n01440764").is_dir() for split in ("train", "val"))


def _class_folders(place: Path, request: Request) -> Images:
    names = SUBFOLDERS[request.split]
    inner = next((place / name for name in names if (place / name).is_dir()), None)
    if inner is None:
        raise DataError(
            f"{place} has no folder {' or '.join(names)}, "
            f"put the {request.split} images into {place / names[0]}/<class>/"
        )
    transform = image_transform(DATA[request.name], request.cfg, request.augment)
    try:
        found = torchvision.datasets.ImageFolder(inner, transform=transform)
    except FileNotFoundError as error:
        raise DataError(
            f"{inner} has no class folders with images in each of them "
            f"({str(error).splitlines()[0]}), put the images into {inner}/<class>/"
        ) from error
    labels = _imagenet_labels(found.classes, request.cfg)
    found.target_transform = labels.__getitem__ if labels else None
    images: Images = found
    return images


def _imagenet_labels(wnids: list[str], cfg: Mapping[str, object] | None) -> list[int]:
    """Return ImageNet's label of each class, where a 1,000-class network meets WordNet ids."""
    if not cfg or cfg.get("num_classes") != IMAGENET_CLASSES:
        return []
    imagenet = ImageNetInfo()
    known = {imagenet.index_to_label_name(k): k for k in range(IMAGENET_CLASSES)}
    return [known[wnid] for wnid in wnids] if set(wnids) <= set(known) else []
