"""The VGG-16 of hybrid training against torchvision's, and how the paper trains it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from spiketune.zoo.vgg import AverageVGG

ROOT = Path(__file__).parent.parent.parent


def outline(layers: nn.Module) -> list[tuple[object, ...]]:
    """Return convolutions, pools and linear layers in their order, each with what shapes it."""
    found: list[tuple[object, ...]] = []
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
            found.append(("conv", layer.in_channels, layer.out_channels, *window))
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            found.append(("pool", layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, nn.Linear):
            found.append(("linear", layer.out_features))
    return found


def test_layers_are_those_of_torchvisions_vgg16() -> None:
    with torch.device("meta"):
        ours, theirs = AverageVGG(num_classes=1000), torchvision.models.vgg16()
    assert len(outline(theirs.features)) == 13 + 5
    assert outline(ours.features) == outline(theirs.features)
    assert outline(ours.head) == outline(theirs.classifier)
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in ours.modules())
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in ours.modules()) == 5
    assert not any(name.endswith("bias") for name, _ in ours.named_parameters())


@pytest.mark.parametrize("rate", [0.2, 0.3])
def test_dropout_follows_each_relu_that_no_pool_follows(rate: float) -> None:
    with torch.device("meta"):
        given = {} if rate == 0.2 else {"drop_rate": rate}
        net = AverageVGG(**given)  # type: ignore[arg-type]
    layers = [*net.features, *net.head]
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Dropout)]
    behind = [place + 1 for place, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    # Of 15 ReLUs the last one of each of the five stages goes into a pool.
    assert len(behind) == 15 and len(places) == 10
    assert places == [place for place in behind if not isinstance(layers[place], nn.AvgPool2d)]
    assert {layers[place].p for place in places} == {rate}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_anns", ROOT / "scripts/train_anns.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_anns"] = module  # its dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_it_is_trained_as_the_paper_says(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = script.RECIPES["vgg16"]
    with torch.device("meta"):
        assert isinstance(recipe.build(), AverageVGG)
    assert recipe.epochs == 300 and recipe.data == "cifar10" and recipe.smoothing == 0
    cfg = recipe.cfg
    assert cfg["mean"] == cfg["std"] == (0.5, 0.5, 0.5)  # images in [-1, 1]

    used: list[torch.optim.Optimizer] = []
    rates: list[float] = []

    def watched(net: nn.Module, *args: Any, **settings: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(net, *args, **settings)
        optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
        used.append(optimizer)
        return optimizer

    def two_images(*_: object, **__: object) -> TensorDataset:
        return TensorDataset(torch.rand(2, 1, 2, 2), torch.arange(2))

    small = replace(recipe, build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 10, bias=False)))
    monkeypatch.setitem(script.RECIPES, "vgg16", small)
    monkeypatch.setattr(script, "create_optimizer_v2", watched)
    monkeypatch.setattr(script.st, "load_data", two_images, raising=False)
    script.train("vgg16", tmp_path / "vgg16.safetensors", None, batch=2, epochs=20)
    (optimizer,) = used
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert group["momentum"] == 0.9 and group["weight_decay"] == 5e-4 and not group["nesterov"]
    assert rates == pytest.approx([1e-2] * 12 + [1e-3] * 4 + [1e-4] * 2 + [1e-5] * 2)


def test_a_value_of_the_last_stage_is_the_mean_of_four() -> None:
    net = AverageVGG().eval()
    x = torch.rand(1, 3, 64, 64)
    before: list[Tensor] = []
    last = net.features[-2]
    last.register_forward_hook(lambda _, __, out: before.append(out.detach()))
    with torch.no_grad():
        pooled = net.features(x)
    (value,) = before
    expected = sum(value[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(pooled, expected)
