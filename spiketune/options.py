"""What the options of several commands mean: images, a device, a network by name or file."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

import spiketune as st
from spiketune.convert import Method
from spiketune.snn import evaluating
from spiketune.snn.network import check_steps, plain_cfg

Loader = DataLoader[tuple[torch.Tensor, int]]


def require_out(out: Path, *, suffix: str = ".safetensors", **read: Path | None) -> None:
    """Refuse, before any work, a file that cannot or should not be written.

    Args:
        out: what --out says.
        suffix: how its name must end.
        read: files that the command reads, by the names of their options.

    Raises:
        SpiketuneError: naming the path and what to give.
    """
    if out.exists() and not out.is_file():
        what = "a folder" if out.is_dir() else "a device or a pipe"
        raise st.SpiketuneError(f"--out {out} is {what}; name a {suffix} file to write")
    if out.suffix != suffix:  # a checkpoint is called as the file but for the suffix
        raise st.SpiketuneError(f"--out {out} is no {suffix} file; give {out}{suffix}")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise st.SpiketuneError(f"--out {out} lies in {above}, which is no folder; give another")
    for option, path in read.items():
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise st.SpiketuneError(
                f"--out {out} is the file that --{option} reads, and would be written over; give "
                "another --out"
            )


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set as the options name it."""

    # What tells the images of one run from those of another.
    NAMED: ClassVar = ("data", "root", "limit", "augment")

    data: str
    root: Path | None
    limit: int | None
    batch: int
    augment: bool | str = False
    workers: int = 0

    @property
    def named(self) -> dict[str, str | int]:
        """What was said of them, a folder by its whole path."""
        root = None if self.root is None else str(self.root.resolve())
        said = {"data": self.data, "root": root, "limit": self.limit, "augment": self.augment}
        return {name: value for name, value in said.items() if value is not None}

    def loader(
        self,
        split: Literal["train", "test"],
        network: nn.Module,
        shuffle: bool = False,
        even: bool = False,
    ) -> Loader:
        """Return the images of one split, prepared for the network; only training's are moved.

        ``even`` leaves out a last batch with an odd number of images.
        """
        check_steps(self.batch, "batch")
        images = st.load_data(
            self.data, split, self.root, cfg=network, limit=self.limit,
            augment=self.augment if split == "train" else False,
        )  # fmt: skip
        odd = len(cast(Sized, images)) % self.batch % 2 == 1
        return DataLoader(
            images, batch_size=self.batch, shuffle=shuffle, drop_last=even and odd,
            num_workers=self.workers,
        )  # fmt: skip


def listed(given: Iterable[object] | str | int) -> list[str]:
    """Return what an option lists: one, several with commas between them, or a list."""
    names = str(given).split(",") if isinstance(given, str | int) else [str(one) for one in given]
    return [name.strip() for name in names if name.strip()]


def method_of(given: Method | None) -> Method:
    """Return the method that the options name; ``Graded()`` with their settings by default.

    The commands have no default of their own: jsonargparse would hand its settings on to
    whatever other method is named, and `--method Graded` would not mean ``Graded()``.
    """
    if given is None or type(given) is not Method:
        return given or st.Graded()
    own = {field.name: getattr(given, field.name) for field in fields(Method)}
    changed = {f.name for f in fields(Method) if own[f.name] != f.default}
    return st.Graded(**{name: own[name] for name in changed | {"steps"}})


def points(count: float) -> str:
    """Return a number of percentage points in words."""
    return f"{count:g} point" + "s" * (count != 1)


def usable_device(name: str | None) -> torch.device:
    """Return a device that is there."""
    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise st.SpiketuneError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); give --device cpu"
        ) from error
    return device


def reference(name: str, checkpoint: Path | None, like: st.SpikingNetwork | None) -> nn.Module:
    """Return the network to compare with; a local file has the channels and classes of ``like``."""
    if checkpoint is None or like is None:
        return st.load_ann(name, checkpoint=checkpoint)
    weight = next(like.parameters())
    image = torch.zeros(1, *like.input_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), evaluating(like):  # one in training would move its statistics
        classes = int(like(image, steps=1).shape[1])
    return st.load_ann(
        name, checkpoint=checkpoint, num_classes=classes, in_chans=like.input_shape[0]
    )


def teaching(name: str, checkpoint: Path | None, snn: st.SpikingNetwork) -> nn.Module:
    """Return the network that is to teach another one, with which it shares the images.

    Raises:
        SpiketuneError: if the weights published under the name want other values of the same image.
            How those in a local file were trained, a name does not tell.
    """
    teacher = reference(name, checkpoint, snn)
    differing = [key for key in _prepared_differently(snn, teacher) if key in ("mean", "std")]
    if differing and checkpoint is None:
        raise st.SpiketuneError(
            f"the network and its teacher {name} prepare their images differently "
            f"({', '.join(differing)}); give a teacher that sees what the network sees, or its "
            "weights from training on such images as --teacher_checkpoint"
        )
    return teacher


def require_same_images(compared: dict[str, nn.Module]) -> None:
    """Refuse networks that see differently prepared images: one loader serves them all."""
    first, *others = compared
    for name in others:
        differing = _prepared_differently(compared[first], compared[name])
        if differing:
            raise st.SpiketuneError(
                f"{first} and {name} prepare their images differently ({', '.join(differing)}); "
                "compare them in two runs"
            )


def _prepared_differently(first: nn.Module, other: nn.Module) -> list[str]:
    """Return what of the preparation of images one network has otherwise than another."""
    wanted, cfg = (plain_cfg(getattr(net, "pretrained_cfg", None)) for net in (first, other))
    return [key for key in wanted if key in cfg and cfg[key] != wanted[key]]
