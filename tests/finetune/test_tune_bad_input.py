"""Whatever is given wrongly is said in one sentence, with the remedy, before it does harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from tuning_networks import small_ann, spiking

from spiketune.finetune import (
    Rule,
    SurrogateBPTT,
    Training,
    TuneError,
    calibrate_gain,
    gradient_norms,
    tune,
    unfold,
)
from spiketune.snn import IF, SpiketuneError, SpikingNetwork, read
from spiketune.snn.placing import replace_by_module

Build = Callable[..., SpikingNetwork]
IMAGES, LABELS = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 9])


class Endless(IterableDataset[Tensor]):
    """A data set that does not know its length."""

    def __iter__(self) -> Any:
        return iter([(IMAGES[0], 0)])


class Unknown(Rule):
    """A rule that nobody registered."""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"loader": []}, "the loader is empty"),
        ({"validate": []}, "the validation loader is empty"),
        ({"loader": DataLoader(TensorDataset(IMAGES), 8, drop_last=True)}, "empty"),
        ({"loader": DataLoader(Endless())}, "no length"),
        ({"loader": [IMAGES]}, "epoch 1, batch 1: the loader yields no"),
        ({"loader": [(IMAGES,)]}, "epoch 1, batch 1: the loader yields no"),
        ({"loader": [(IMAGES, LABELS + 1)]}, "batch 1: label 10, but .* 0 to 9"),
        ({"loader": [(IMAGES, LABELS - 1)]}, "label -1"),
        ({"loader": [(IMAGES, LABELS.float())]}, "one class number an image"),
        ({"loader": [(IMAGES, LABELS[:3])]}, "one class number an image"),
        ({"loader": [(IMAGES[:0], LABELS[:0])]}, "no images"),
        ({"loader": [(IMAGES[..., :7], LABELS)]}, r"\[4, 1, 8, 7\] given"),
        ({"loader": [(IMAGES.repeat(1, 3, 1, 1), LABELS)]}, r"\[4, 3, 8, 8\] given"),
        ({"loader": [((IMAGES * 255).byte(), LABELS)]}, "scale them"),
        ({"validate": [(IMAGES, LABELS + 5)]}, "validation batch 1: label 14"),
        ({"rule": Unknown()}, "not a training rule; use an instance of .*SurrogateBPTT"),
        ({"rule": SurrogateBPTT}, "use an instance of"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, r"\[4, 3\] to 4 images"),
        ({"precision": "half"}, "precision must be"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used here .*give device='cpu'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"training": Training(learning_rate=1e38, clip_grad=None, optimizer="sgd", warmup=0),
          "loader": [(IMAGES, LABELS)] * 5},
         r"epoch 1, batch \d: the loss is (nan|inf).*lower it"),
    ],
    ids=lambda value: str(value)[:40].replace("\n", ""),
)  # fmt: skip
def test_bad_input(build: Build, wrong: dict[str, Any], message: str) -> None:
    snn = build()
    use: dict[str, Any] = {
        "loader": [(IMAGES, LABELS)], "rule": SurrogateBPTT(), "steps": 2, "epochs": 1,
    }  # fmt: skip
    with pytest.raises(SpiketuneError, match=message) as caught:
        tune(snn, **(use | wrong))
    assert "\n" not in str(caught.value)
    assert snn.steps == 8 and not snn.training and "rule" not in snn.about


def test_a_loss_that_is_no_number_keeps_the_checkpoint(build: Build, tmp_path: Path) -> None:
    broken = [(IMAGES, LABELS), (IMAGES * torch.nan, LABELS)]
    path = tmp_path / "run.pt"
    with pytest.raises(TuneError, match="epoch 1, batch 2"):
        tune(build(), broken, SurrogateBPTT(), steps=2, epochs=1, checkpoint=path)
    good = [(IMAGES, LABELS)] * 2
    tune(build(), good, SurrogateBPTT(), steps=2, epochs=1, checkpoint=path, resume=True)


def test_networks_that_no_rule_can_train(build: Build) -> None:
    use: dict[str, Any] = {
        "loader": [(IMAGES, LABELS)], "rule": SurrogateBPTT(), "steps": 2, "epochs": 1,
    }  # fmt: skip
    with pytest.raises(TuneError, match=r"give the network as it was before fold\(\)"):
        tune(build().fold(), **use)
    linear = read(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGES)
    with pytest.raises(TuneError, match="no neurons"):
        tune(SpikingNetwork(linear, steps=2, input_shape=(1, 8, 8)), **use)
    snn = build()
    with pytest.raises(TuneError, match="own teacher"):
        tune(snn, **use, teacher=snn)
    maps = spiking(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), IMAGES)
    with pytest.raises(TuneError, match="only classifiers"):
        tune(maps, **use)


@pytest.mark.parametrize("given", [small_ann(), "resnet50", None], ids=lambda x: type(x).__name__)
def test_what_is_no_spiking_network_is_said(given: Any) -> None:
    sentence = rf"^{type(given).__name__} is no spiking network; make one of it with to_snn\(ann"
    use: dict[str, Any] = {"steps": 2}
    for verb in (
        lambda: tune(given, [(IMAGES, LABELS)], SurrogateBPTT(), epochs=1, **use),
        lambda: calibrate_gain(given, IMAGES, **use),
        lambda: gradient_norms(given, IMAGES, **use),
        lambda: unfold(given, IMAGES),
    ):
        with pytest.raises(TuneError, match=sentence):
            verb()


class Pyramid(nn.Module):
    """Answers with features at two scales."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.pack = nn.Conv2d(1, 2, 3), pack

    def forward(self, x: Tensor) -> Any:
        fine = torch.relu(self.conv(x))
        return self.pack(fine, nn.functional.avg_pool2d(fine, 2))


@pytest.mark.parametrize("pack", [lambda *maps: list(maps), lambda a, b: {"fine": a, "coarse": b}])
def test_a_pyramid_of_features_is_said(pack: Callable[..., Any]) -> None:
    net = read(Pyramid(pack), IMAGES)
    (relu,) = [node for node in net.graph.nodes if "relu" in str(node.target)]
    replace_by_module(net, relu, "relu", IF(torch.ones(())))
    net.recompile()
    snn = SpikingNetwork(net, steps=2, input_shape=(1, 8, 8))
    with pytest.raises(TuneError, match=r"answers 2 tensors .* without features_only"):
        tune(snn, [(IMAGES, LABELS)], SurrogateBPTT(), steps=2, epochs=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adamm"},
        {"learning_rate": 0.0},
        {"weight_decay": -0.1},
        {"momentum": 1.0},
        {"warmup": 1.0},
        {"clip_grad": 0.0},
        {"label_smoothing": 1.0},
        {"distillation": 1.5},
        {"temperature": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "0.1"},
        {"weight_decay": None},
        {"clip_grad": "none"},
        {"accumulate": True},
    ],
    ids=str,
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(TuneError, match=f"{name} must be .* not"):
        Training(**wrong)


def test_the_teacher_gets_its_modes_back_after_an_error(build: Build) -> None:
    teacher = small_ann().train()
    bad = [(IMAGES, LABELS + 1)]
    with pytest.raises(TuneError):
        tune(build(), bad, SurrogateBPTT(), steps=2, epochs=1, teacher=teacher)
    assert all(module.training for module in teacher.modules())
