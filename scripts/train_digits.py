"""Train the bundled ``digits_resnet`` and write its weights: half a minute a seed.

    python scripts/train_digits.py --others 6

The printed checksum belongs into ``zoo/bundled.py``. The test images are looked at once, last.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from spiketune.zoo import load_ann, load_data
from spiketune.zoo.data_sets import Split
from spiketune.zoo.image_tensors import ImageTensors

NAME = "digits_resnet"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the network is trained."""

    epochs: int = 120
    batch: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.05
    turn: float = 10.0  # degrees
    scale: float = 0.1  # share of the size
    shift: float = 0.8  # pixels
    seed: int = 0
    others: int = 0  # further seeds, trained to see the spread; only the first is kept
    folder: Path = Path(__file__).parents[1] / "zoo" / "weights"


def main(settings: Settings) -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)  # more would add in another order, and are no faster here
    model, right, total = trained(settings.seed, settings)
    measured = f"{right} of {total} test images, {right / total:.2%}, with seed {settings.seed}"
    seeds = range(settings.seed + 1, settings.seed + 1 + settings.others)
    if others := [trained(seed, settings)[1] for seed in seeds]:
        measured += f"; {min(others)} to {max(others)} with the {len(others)} seeds after it"
    write(model, settings, measured)


def trained(seed: int, settings: Settings) -> tuple[nn.Module, int, int]:
    """Train one network; return it, how many test images it names rightly, and of how many."""
    torch.manual_seed(seed)
    model = load_ann(NAME, pretrained=False)
    fit(model, *whole("train", model), settings)
    images, labels = whole("test", model)
    return model, int((model(images).argmax(1) == labels).sum()), len(labels)


def whole(split: Split, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Load all images and labels of a split."""
    data = load_data("digits", split, cfg=vars(model)["pretrained_cfg"])
    assert isinstance(data, ImageTensors)
    return data.tensors


def fit(model: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> None:
    """Train with AdamW, a rise and a cosine fall, on images moved anew in each epoch."""
    batches = math.ceil(len(images) / settings.batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.epochs * batches, pct_start=0.1
    )
    model.train()
    for _ in range(settings.epochs):
        for kept in torch.randperm(len(images)).chunk(batches):
            logits = model(moved(images[kept], settings))
            loss = functional.cross_entropy(logits, labels[kept], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def moved(images: Tensor, settings: Settings) -> Tensor:
    """Turn, scale and shift each image at random; the border repeats, which is background."""
    count, size = len(images), images.shape[-1]
    angle = (2 * torch.rand(count) - 1) * math.radians(settings.turn)
    scale = 1 + (2 * torch.rand(count) - 1) * settings.scale
    shift = (2 * torch.rand(2, count) - 1) * settings.shift * 2 / size
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos, -sin, shift[0], sin, cos, shift[1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def write(model: nn.Module, settings: Settings, measured: str) -> None:
    """Write the weights and the note, and print what was measured."""
    path = settings.folder / f"{NAME}.safetensors"
    save_file(model.state_dict(), path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    note = (
        f"# {NAME}\n\ntimm's `ResNet` with a light stem for scikit-learn's 8x8 digits.\n\n"
        f"- accuracy: {measured}\n- made by: `python {shlex.join(sys.argv)}`\n"
        f"- with: torch {torch.__version__}\n- sha256: `{digest}`\n"
    )
    path.with_suffix(".md").write_text(note)
    print(note)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
