"""Fashion-MNIST, all 60,000 / 10,000 images: resnet10t, its conversions, fine-tuned, and direct.

    python scripts/fashion_mnist.py --data /path/to/data

The network is timm's resnet10t with one input channel and its own stem. Every stage leaves a
file in ``--work`` and is skipped when that is there, so a run that was stopped goes on. The table
and the curves land in ``--results``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import nn
from torch.utils.data import DataLoader
from train_anns import train

import spiketune as st

BUDGET = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        data: folder with the data set; by default the usual places.
        work: folder for weights and checkpoints.
        results: folder for the table, the curves and the page.
        ann_epochs: of the ANN.
        tune_epochs: of the fine-tuning at T = 4.
        direct_epochs: of the direct training at T = 4.
        batch: images at once.
        threads: of torch.
        steps: largest budget compared.
        stage: the one stage to run; ``tuned`` and ``direct`` may run side by side.
    """

    data: str | None = None
    work: Path = Path("runs/fashion")
    results: Path = Path("docs/results/fashion_mnist")
    ann_epochs: int = 10
    tune_epochs: int = 2
    direct_epochs: int = 2
    batch: int = 128
    threads: int = 2
    steps: int = 16
    stage: Literal["all", "ann", "tuned", "direct"] = "all"


def train_snn(
    snn: st.SpikingNetwork, settings: Settings, name: str, epochs: int, rate: float,
    teacher: nn.Module | None,
) -> st.SpikingNetwork:  # fmt: skip
    """Tune or train a network at T = 4, or load it if that was done before."""
    path = settings.work / f"{name}.safetensors"
    if path.exists():
        return st.load(path)
    images = st.load_data("fashion-mnist", "train", settings.data, cfg=snn.pretrained_cfg)
    checkpoint = path.with_suffix(".checkpoint")
    st.tune(
        snn, DataLoader(images, settings.batch, shuffle=True), st.SurrogateBPTT(), steps=BUDGET,
        epochs=epochs, teacher=teacher, training=st.Training(learning_rate=rate),
        checkpoint=checkpoint, resume=checkpoint.exists(),
        on_epoch=lambda e: print(f"{name} epoch {e.epoch}: {e.loss:.3f}, {e.seconds:.0f} s"),
    )  # fmt: skip
    st.save(snn, path)
    return snn


def networks(settings: Settings) -> dict[str, nn.Module]:
    """Return every network to compare, trained or loaded."""
    weights = settings.work / "ann.safetensors"
    if not weights.exists():
        train("resnet10t", weights, settings.data, batch=settings.batch, epochs=settings.ann_epochs)
    ann = st.load_ann("resnet10t", checkpoint=weights, num_classes=10, in_chans=1)
    # It was trained on images as the data set itself normalises them, at their own size.
    ann.pretrained_cfg = {"input_size": (1, 28, 28)}
    images = st.load_data("fashion-mnist", "train", settings.data, limit=1024).tensors[0]

    models: dict[str, nn.Module] = {"ANN": ann}
    models["binary, max"] = st.to_snn(ann, images, st.Binary(threshold=st.Max()))
    models["binary, MSE"] = st.to_snn(ann, images, st.Binary(steps=16))
    models["ternary, for T=8"] = st.to_snn(ann, images, st.Ternary(steps=8))
    models["ternary, for T=16"] = st.to_snn(ann, images, st.Ternary(steps=16))
    if settings.stage in ("all", "tuned"):
        models["ternary, tuned at T=4"] = train_snn(
            st.to_snn(ann, images, st.Ternary(steps=BUDGET)),
            settings, "tuned", settings.tune_epochs, 1e-3, ann,
        )  # fmt: skip
    if settings.stage in ("all", "direct"):
        torch.manual_seed(0)
        models["direct at T=4"] = train_snn(
            st.spiking("resnet10t", 10, BUDGET, in_chans=1, image_size=28),
            settings, "direct", settings.direct_epochs, 3e-3, None,
        )  # fmt: skip
    return models


def main(settings: Settings) -> None:
    """Run every stage that has not left its file yet, then compare all of them."""
    torch.set_num_threads(settings.threads)
    models = networks(settings)
    if settings.stage != "all":
        return
    test = st.load_data("fashion-mnist", "test", settings.data)
    table = st.sweep(models, DataLoader(test, 250), settings.steps)
    print(table)
    folder = table.save(settings.work / "sweep")
    settings.results.mkdir(parents=True, exist_ok=True)
    (settings.results / "table.md").write_text(table.markdown())
    for name in ("table.csv", "curves.png"):
        shutil.copy(folder / name, settings.results / name)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
