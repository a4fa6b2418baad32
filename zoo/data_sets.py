"""The data sets this room knows: what they hold and how they are normalised."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .errors import DataError

__all__ = ["DATA", "DataInfo", "Split", "cfg_of", "data_info", "list_data"]

Split = Literal["train", "test"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DIGITS = tuple("0123456789")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ZAHLEN = "null eins zwei drei vier fuenf sechs sieben acht neun"
_GESTURES = """
    hand_clapping right_hand_wave left_hand_wave right_arm_clockwise
    right_arm_counter_clockwise left_arm_clockwise left_arm_counter_clockwise arm_roll
    air_drums air_guitar other_gestures
"""
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a data set holds.

    Attributes:
        name: The name ``load_data`` takes.
        input_size: Channels, height and width of an image as it is stored, or as it is usually
            cut where the images differ; polarities, height and width of one frame of events.
        classes: The class names in the order of the labels; empty for ``folder``, whose folders
            decide.
        mean: Mean of the training images by channel, in [0, 1].
        std: Standard deviation of the training images by channel.
        note: One line about it.
        frames: How many frames a sample is usually cut into; 0 for still images.
        duration: Microseconds that the frames usually cover.

    Example:
        >>> from spiketune.zoo import data_info
        >>> data_info("digits").num_classes
        10
    """

    name: str
    input_size: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    frames: int = 0
    duration: int = 0

    @property
    def num_classes(self) -> int:
        """Return how many classes there are."""
        return len(self.classes)


_KNOWN = (
    DataInfo(
        name="digits",
        input_size=(1, 8, 8),
        classes=DIGITS,
        mean=(0.3054,),
        std=(0.3759,),
        note="scikit-learn's 1,797 handwritten digits; comes with the installation",
    ),
    DataInfo(
        name="mnist",
        input_size=(1, 28, 28),
        classes=DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        note="60,000 + 10,000 handwritten digits",
    ),
    DataInfo(
        name="fashion-mnist",
        input_size=(1, 28, 28),
        classes=(
            *("t-shirt", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        mean=(0.2860,),
        std=(0.3530,),
        note="60,000 + 10,000 pieces of clothing",
    ),
    DataInfo(
        name="cifar10",
        input_size=(3, 32, 32),
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        note="50,000 + 10,000 small photographs, 10 classes",
    ),
    DataInfo(
        name="cifar100",
        input_size=(3, 32, 32),
        classes=tuple(_CIFAR100.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        note="50,000 + 10,000 small photographs, 100 classes",
    ),
    DataInfo(
        name="imagenette",
        input_size=(3, 224, 224),
        classes=(
            *("tench", "English springer", "cassette player", "chain saw", "church"),
            *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        note="9,469 + 3,925 photographs of ten ImageNet classes",
    ),
    DataInfo(
        name="folder",
        input_size=(3, 224, 224),
        classes=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        note="your own photographs: root/train/<class>/*.jpg and root/val/<class>/*.jpg",
    ),
)


def _events(name: str, note: str, classes: tuple[str, ...], **how: Any) -> DataInfo:
    """Describe a set of events, which nobody normalises."""
    size = how.pop("input_size", (2, 34, 34))
    plain = {"mean": (0.0,) * size[0], "std": (1.0,) * size[0]}
    return DataInfo(name=name, note=note, classes=classes, input_size=size, **plain, **how)


_OVER_TIME = (
    _events(
        "mnist_saccades",
        "the events that three saccades over each image of MNIST give",
        DIGITS,
        frames=30,
        duration=300_000,
    ),
    _events(
        "fashion_mnist_saccades",
        "the events that three saccades over each image of Fashion-MNIST give",
        next(info.classes for info in _KNOWN if info.name == "fashion-mnist"),
        frames=30,
        duration=300_000,
    ),
    _events(
        "nmnist",
        "N-MNIST, 60,000 + 10,000 digits recorded by an event camera",
        DIGITS,
        frames=30,
        duration=300_000,
    ),
    _events(
        "dvs_gesture",
        "DVS Gesture, 1,176 + 288 gestures of 29 people recorded by an event camera",
        tuple(_GESTURES.split()),
        input_size=(2, 128, 128),
        frames=30,
        duration=1_500_000,
    ),
    _events(
        "shd",
        "Spiking Heidelberg Digits, 8,156 + 2,264 English and German digits of a model ear",
        (*NUMBERS, *_ZAHLEN.split()),
        input_size=(1, 1, 700),
        frames=100,
        duration=1_400_000,
    ),
    _events(
        "ntidigits",
        "the isolated digits of N-TIDIGITS, TIDIGITS heard by a silicon cochlea",
        (*NUMBERS, "oh"),
        input_size=(1, 1, 64),
        frames=100,
        duration=1_500_000,
    ),
    _events(
        "tidigits",
        "the adults' isolated digits of TIDIGITS, from your own folder of sound",
        (*NUMBERS, "oh"),
        input_size=(2, 15, 32),
        frames=100,
        duration=1_000_000,
    ),
    _events(
        "ti46_digits",
        "the digits of TI46, from your own folder of sound",
        NUMBERS,
        input_size=(2, 15, 32),
        frames=100,
        duration=1_000_000,
    ),
    _events(
        "ti46_alpha",
        "the letters of TI46, from your own folder of sound",
        tuple("abcdefghijklmnopqrstuvwxyz"),
        input_size=(2, 15, 32),
        frames=100,
        duration=1_000_000,
    ),
)

DATA: dict[str, DataInfo] = {info.name: info for info in (*_KNOWN, *_OVER_TIME)}


def list_data() -> list[DataInfo]:
    """List the data sets that ``load_data`` knows.

    Returns:
        One entry a data set.

    Example:
        >>> from spiketune.zoo import list_data
        >>> [info.name for info in list_data()][:2]
        ['digits', 'mnist']
    """
    return list(DATA.values())


def data_info(name: str) -> DataInfo:
    """Look up what a data set holds, without loading it.

    Args:
        name: A name that ``list_data`` gives.

    Returns:
        Its input size, classes, mean and std.

    Raises:
        DataError: There is no such data set.

    Example:
        >>> from spiketune.zoo import data_info
        >>> data_info("fashion-mnist").classes[9]
        'ankle boot'
    """
    if name in DATA:
        return DATA[name]
    near = difflib.get_close_matches(name.lower(), DATA, n=3)
    choice = " or ".join(near) if near else "one of " + ", ".join(DATA)
    raise DataError(
        f"there is no data set {name!r}, name {choice}; your own images go by the name folder"
    )


def cfg_of(network: Mapping[str, object] | nn.Module | None) -> Mapping[str, object] | None:
    """Return a network's preprocessing; a configuration, or None, as it is.

    Example:
        >>> from torch import nn
        >>> cfg_of(nn.Identity()), cfg_of({"mean": (0.5,)})
        (None, {'mean': (0.5,)})
    """
    if not isinstance(network, nn.Module):
        return network
    cfg = getattr(network, "pretrained_cfg", None)
    return cfg if isinstance(cfg, Mapping) else None
