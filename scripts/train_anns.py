"""Train the ANNs that the conversion tables start from, on MNIST or Fashion-MNIST.

    python scripts/train_anns.py --data /path/to/data --only '[lenet, residual14]'

Each network leaves ``<name>.safetensors`` in ``--work`` and is skipped when that is there. The
other scripts load them with ``trained(name, folder)``. The VGG-16 of CIFAR-10, 300 epochs long, is
trained only where it is named: see ``recipes/cifar10_vgg16_hybrid``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from jsonargparse import auto_cli
from safetensors.torch import load_file, save_file
from timm.models.resnet import BasicBlock, ResNet
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import spiketune as st


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is made and trained, of ten classes.

    Attributes:
        build: makes the network.
        data: name of the images.
        epochs: passes over them.
        rate: highest learning rate.
        optimizer: as timm names it.
        options: its further settings.
        milestones: shares of all updates after which the rate is divided by ten; by default it
            rises over a tenth of them and falls as a cosine.
        smoothing: share of the label's weight that is spread over all classes.
        cfg: how images are prepared; 28 pixels, one channel, as the data set says by default.
    """

    build: Callable[[], nn.Module]
    data: str
    epochs: int
    rate: float
    optimizer: str = "adamw"
    options: Mapping[str, Any] = field(default_factory=lambda: {"weight_decay": 0.05})
    milestones: tuple[float, ...] = ()
    smoothing: float = 0.05
    cfg: Mapping[str, object] = field(default_factory=lambda: {"input_size": (1, 28, 28)})

    def schedule(self, optimizer: torch.optim.Optimizer, total: int) -> Scheduler:
        """Return how the rate moves over so many updates."""
        if self.milestones:
            # timm takes a milestone one update early.
            marks = [round(share * total) + 1 for share in self.milestones]
            return MultiStepLRScheduler(optimizer, marks, decay_rate=0.1, t_in_epochs=False)
        return CosineLRScheduler(
            optimizer, t_initial=total, warmup_t=total // 10, warmup_prefix=True, t_in_epochs=False
        )


def lenet() -> nn.Module:
    """Return a LeNet-like network with BatchNorm and average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(800, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def residual14() -> nn.Module:
    """Return a residual network of 14 weighted layers: a 3x3 stem, six blocks of two, a head."""
    net = ResNet(BasicBlock, [2, 2, 1, 1], num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    net.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def convnext() -> nn.Module:
    """Return timm's smallest ConvNeXt on images padded to 32 pixels, which its four stages need."""
    return nn.Sequential(nn.ZeroPad2d(2), _timm("test_convnext", patch_size=2)())


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, in_chans=1, num_classes=10, **options)


RECIPES = {
    "lenet": Recipe(build=lenet, data="mnist", epochs=4, rate=3e-3),
    "residual14": Recipe(build=residual14, data="mnist", epochs=3, rate=3e-3),
    "resnet10t": Recipe(build=_timm("resnet10t"), data="fashion-mnist", epochs=10, rate=2e-3),
    "resnet50": Recipe(build=_timm("resnet50"), data="fashion-mnist", epochs=3, rate=1e-3),
    "vit": Recipe(
        build=_timm("test_vit", img_size=28, patch_size=4, dynamic_img_size=False),
        data="fashion-mnist", epochs=8, rate=2e-3,
    ),
    "convnext": Recipe(build=convnext, data="fashion-mnist", epochs=3, rate=3e-3),
    # Rathi et al. 2020: no BatchNorm, no biases, images scaled to [-1, 1].
    "vgg16": Recipe(
        build=lambda: st.load_ann("rathi_vgg16", pretrained=False),
        data="cifar10", epochs=300, rate=1e-2,
        optimizer="momentum", options={"weight_decay": 5e-4, "momentum": 0.9},
        milestones=(0.6, 0.8, 0.9), smoothing=0.0,
        cfg={
            "input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        },
    ),
}  # fmt: skip
USUAL = [name for name in RECIPES if name != "vgg16"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        only: the networks to train; by default all of the MNIST sets.
        data: folder with the data sets; by default the usual places.
        work: folder for the weights.
        batch: images at once.
        epochs: passes over them; each network's own number by default.
        threads: of torch.
        device: cpu, cuda, ...
    """

    only: list[str] = field(default_factory=lambda: list(USUAL))
    data: str | None = None
    work: Path = Path("runs/anns")
    batch: int = 128
    epochs: int | None = None
    threads: int = 2
    device: str = "cpu"


def train(
    name: str,
    path: Path,
    data: str | None,
    *,
    batch: int = 128,
    epochs: int | None = None,
    device: str = "cpu",
) -> None:
    """Train one network as its recipe says and write its weights."""
    recipe = RECIPES[name]
    epochs = recipe.epochs if epochs is None else epochs
    torch.manual_seed(0)
    net = recipe.build().train().to(device)
    augment = recipe.data != "mnist"
    images = st.load_data(recipe.data, "train", data, cfg=recipe.cfg, augment=augment)
    loader = DataLoader(images, batch, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(net, recipe.optimizer, lr=recipe.rate, **recipe.options)
    schedule = recipe.schedule(optimizer, epochs * len(loader))
    step = 0
    for epoch in range(epochs):
        began = time.perf_counter()
        for x, y in loader:
            loss = cross_entropy(net(x.to(device)), y.to(device), label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        seconds = time.perf_counter() - began
        shown = f"loss {loss.item():.3f}, test {accuracy(net, recipe, data)}, {seconds:.0f} s"
        print(f"{name} epoch {epoch + 1}: {shown}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)


def accuracy(net: nn.Module, recipe: Recipe, data: str | None) -> str:
    """Return the test accuracy in per cent."""
    images = st.load_data(recipe.data, "test", data, cfg=recipe.cfg)
    device = next(net.parameters()).device
    net.eval()
    with torch.no_grad():
        batches = ((x.to(device), y.to(device)) for x, y in DataLoader(images, 500))
        hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in batches)
    net.train()
    return f"{100 * hits / len(images):.2f} %"


def trained(name: str, folder: Path) -> nn.Module:
    """Return a network that this script has trained, in evaluation mode."""
    net = RECIPES[name].build()
    net.load_state_dict(load_file(folder / f"{name}.safetensors"))
    net.pretrained_cfg = dict(RECIPES[name].cfg)
    return net.eval()


def main(settings: Settings) -> None:
    """Train what is asked for and not there yet."""
    torch.set_num_threads(settings.threads)
    for name in settings.only:
        path = settings.work / f"{name}.safetensors"
        if not path.exists():
            train(
                name, path, settings.data,
                batch=settings.batch, epochs=settings.epochs, device=settings.device,
            )  # fmt: skip


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
