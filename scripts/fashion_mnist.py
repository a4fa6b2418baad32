"""Fashion-MNIST, all 60,000 / 10,000 images: resnet10t, its conversions, fine-tuned, and direct.

    python scripts/fashion_mnist.py --data /path/to/data

The network is timm's resnet10t with one input channel and its own stem. Every stage leaves a
file in ``--work`` and is skipped when that is there, so a run that was stopped goes on. The table
and the curves land in ``--results``.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

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


def train_ann(settings: Settings, path: Path) -> None:
    """Train the ANN with AdamW and a cosine schedule, and write its weights."""
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", in_chans=1, num_classes=10)
    train = st.load_data("fashion-mnist", "train", settings.data, augment=True)
    loader = DataLoader(train, settings.batch, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(net, "adamw", lr=2e-3, weight_decay=0.05)
    total = settings.ann_epochs * len(loader)
    schedule = CosineLRScheduler(
        optimizer, t_initial=total, warmup_t=total // 10, warmup_prefix=True, t_in_epochs=False
    )
    step = 0
    for epoch in range(settings.ann_epochs):
        began = time.perf_counter()
        for x, y in loader:
            loss = cross_entropy(net(x), y, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        seconds = time.perf_counter() - began
        print(f"ann epoch {epoch + 1}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)


def train_snn(
    snn: st.SpikingNetwork, settings: Settings, name: str, epochs: int, rate: float,
    teacher: nn.Module | None,
) -> st.SpikingNetwork:  # fmt: skip
    """Tune or train a network at T = 4, or load it if that was done before."""
    path = settings.work / f"{name}.safetensors"
    if path.exists():
        return st.load(path)
    train = st.load_data("fashion-mnist", "train", settings.data, cfg=snn.pretrained_cfg)
    checkpoint = path.with_suffix(".checkpoint")
    st.tune(
        snn, DataLoader(train, settings.batch, shuffle=True), st.SurrogateBPTT(), steps=BUDGET,
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
        train_ann(settings, weights)
    ann = st.load_ann("resnet10t", checkpoint=weights, num_classes=10, in_chans=1)
    # It was trained on images as the data set itself normalises them, at their own size.
    ann.pretrained_cfg = {"input_size": (1, 28, 28)}
    train = st.load_data("fashion-mnist", "train", settings.data, limit=1024)
    images = train.tensors[0]

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
