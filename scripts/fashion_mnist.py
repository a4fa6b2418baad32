"""Fashion-MNIST, all 60,000 / 10,000 images: resnet10t, its conversions, fine-tuned, and direct.

    python scripts/fashion_mnist.py --data /path/to/data

The network is timm's resnet10t with one input channel and its own stem. Every stage leaves a
file in ``--work`` and is skipped when that is there, so a run that was stopped goes on. The table
and the curves land in ``--results``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import spiketune as st


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line."""

    data: str | None = None
    work: Path = Path("runs/fashion")
    results: Path = Path("docs/results/fashion_mnist")
    ann_epochs: int = 8
    tune_epochs: int = 2
    direct_epochs: int = 2
    batch: int = 128
    threads: int = 2
    until: str = "sweep"


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


def main(settings: Settings) -> None:
    """Run every stage that has not left its file yet."""
    torch.set_num_threads(settings.threads)
    weights = settings.work / "ann.safetensors"
    if not weights.exists():
        train_ann(settings, weights)
    if settings.until == "ann":
        return


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
