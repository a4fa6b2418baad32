"""Every file in recipes/ goes through the real command, on two batches of made-up images."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset, TensorDataset

import spiketune as st
from spiketune import start
from spiketune.cli import main
from spiketune.finetune import checkpoint
from spiketune.snn import (
    IF,
    LIF,
    HardReset,
    Membrane,
    Scaled,
    SignedIF,
    SuperSpike,
    Surrogate,
    Triangle,
)
from spiketune.snn.ops import WEIGHTED
from spiketune.zoo import ann, data_info, timm_models

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").glob("*/*.yaml"))
FOLDERS = sorted(path for path in (ROOT / "recipes").iterdir() if path.is_dir())
ORDER = ("ann", "convert", "tune")
ONE = ["--batch=1", "--device=cpu"]
OFFLINE = {
    "convert": [*ONE, "--limit=1"],
    "tune": [*ONE, "--epochs=1", "--workers=0"],
    "ann": [*ONE, "--epochs=1", "--threads=1"],
}


@dataclass
class Ran:
    """What came of one folder."""

    shapes: set[tuple[int, ...]] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)
    trained: dict[str, Any] = field(default_factory=dict)
    method: object = None
    trained_norms: int = 0
    slopes: list[object] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)


def made_up(ran: Ran) -> Any:
    """Return a stand-in for ``load_data``: two images to train on, one to test on."""

    def load_data(
        name: str,
        split: str,
        root: object = None,
        *,
        cfg: Any = None,
        limit: int | None = None,
        **_: object,
    ) -> Dataset[tuple[Tensor, ...]]:
        cfg = getattr(cfg, "pretrained_cfg", cfg)
        assert isinstance(cfg, Mapping)
        shape = tuple(cfg["input_size"])
        ran.shapes.add(shape)
        classes = data_info(name).num_classes or 1000
        drawn = torch.Generator().manual_seed(0)
        count = 2 if split == "train" and limit is None else 1
        labels = torch.randint(classes, (count,), generator=drawn)
        images = torch.rand(count, *shape, generator=drawn)
        if data_info(name).frames:
            return TensorDataset((images < 0.2).float(), labels)
        mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
        return TensorDataset((images - mean) / std, labels)

    return load_data


def noted(ran: Ran) -> Any:
    """Return ``tune``, which also keeps what it was given and what came of it."""
    learn = st.tune

    def tune(snn: st.SpikingNetwork, loader: Any, rule: Any, **settings: Any) -> Any:
        ran.trained_norms = sum(isinstance(unit, _BatchNorm) for unit in snn.modules())
        ran.trained = {**settings, "rule": rule, "batches": len(loader)}
        history = learn(snn, loader, rule, **settings)
        ran.slopes = [neuron.firing.surrogate for _, neuron in snn.neurons()]
        ran.trained["history"] = history
        return history

    return tune


def watched(ran: Ran) -> Any:
    """Return ``to_snn``, which also keeps the method it was given."""
    convert = st.to_snn

    def to_snn(ann: nn.Module, images: Any, method: Any, **settings: Any) -> st.SpikingNetwork:
        ran.method = method
        return convert(ann, images, method, **settings)

    return to_snn


def run(file: Path) -> None:
    """Run one file through the command that its name says."""
    given = [f"--config={file}", *OFFLINE[file.stem]]
    if file.stem != "ann":
        main([file.stem, *given])
        return
    spec = importlib.util.spec_from_file_location("train_anns", ROOT / "scripts/train_anns.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["train_anns"] = script  # its dataclasses look their own module up
    spec.loader.exec_module(script)
    script.main(auto_cli(script.Settings, args=given, as_positional=False))


def untrained(name: str, pretrained: bool, *sizes: int | None) -> nn.Module:
    """Stand in for what would download weights."""
    torch.manual_seed(0)
    return timm_models.build(name, False, *sizes)


class Recipes:
    """The folders, each run when it is first asked for."""

    def __init__(self, work: Path) -> None:
        self.work, self.ran = work, dict[str, Ran]()
        self.networks: dict[str, st.SpikingNetwork] = {}

    def of(self, name: str) -> Ran:
        if name not in self.ran:
            ran = Ran()
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.work)
                patch.setitem(ann.BUILDERS, "timm", untrained)
                patch.setattr(st, "load_data", made_up(ran), raising=False)
                patch.setattr(st, "to_snn", watched(ran), raising=False)
                patch.setattr(st, "tune", noted(ran), raising=False)
                patch.setattr(start, "UNFOLD_ON", 1)
                # Half a gigabyte each time; other tests write them.
                patch.setattr(checkpoint, "write", lambda path, state: ran.checkpoints.append(path))
                for file in sorted(
                    (file for file in FILES if file.parent.name == name),
                    key=lambda file: ORDER.index(file.stem),
                ):
                    run(file)
                    ran.files.append(file)
            self.ran[name] = ran
        return self.ran[name]

    def network(self, name: str) -> st.SpikingNetwork:
        if name not in self.networks:
            settings = yaml.safe_load((ROOT / "recipes" / name / "tune.yaml").read_text())
            self.networks[name] = st.load(self.work / settings["out"])
        return self.networks[name]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    yield Recipes(tmp_path_factory.mktemp("recipes"))


def layers(snn: st.SpikingNetwork) -> int:
    """Return how many layers have weights, those of shortcuts included."""
    return sum(node.target in WEIGHTED for node in snn.net.graph.nodes)


def norms(snn: st.SpikingNetwork) -> int:
    return sum(isinstance(unit, _BatchNorm) for unit in snn.modules())


def calibrated_from(base: Surrogate, slopes: list[object]) -> bool:
    """Whether slopes are this one, several of them scaled; one that fits already stays."""
    gains = {slope.gain for slope in slopes if isinstance(slope, Scaled)}
    bases = {slope.surrogate if isinstance(slope, Scaled) else slope for slope in slopes}
    return bases == {base} and len(gains) > 1


each_folder = pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])


@each_folder
def test_two_batches_are_learned_and_everything_is_written(name: str, recipes: Recipes) -> None:
    ran = recipes.of(name)
    assert ran.trained["batches"] == 2 and ran.trained["epochs"] == 1
    (epoch,) = ran.trained["history"].epochs
    assert epoch.images == 2 and math.isfinite(epoch.loss) and epoch.validation is not None
    updates = [
        json.loads(line) for line in (recipes.work / "runs" / name / "log/updates.jsonl").open()
    ]
    assert len(updates) == 2
    assert all(math.isfinite(update["loss"]) for update in updates)
    assert all(0 < update["gradient_norm"] < math.inf for update in updates)
    for file in ran.files:
        settings = yaml.safe_load(file.read_text())
        written = settings.get("out") or f"{settings['work']}/{settings['only'][0]}.safetensors"
        assert (recipes.work / written).stat().st_size > 10_000
    # Before the first update, and after the epoch.
    assert [path.name for path in ran.checkpoints] == [f"{Path(written).stem}.checkpoint"] * 2
    snn = recipes.network(name)
    assert snn.about["epochs"] == 1 and snn.about["tuned_steps"] == snn.steps
    assert bool(snn(torch.rand(1, *snn.input_shape), steps=1).isfinite().all())


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("cifar100_resnet50_direct", (3, 32, 32), 100),
        ("imagenette_resnet50_direct", (3, 128, 128), 10),
    ],
)
def test_direct_recipes_train_resnet_50_at_10_steps(
    name: str, shape: tuple[int, ...], classes: int, recipes: Recipes
) -> None:
    ran, snn = recipes.of(name), recipes.network(name)
    assert ran.shapes == {shape} and snn.input_shape == shape
    assert snn.steps == ran.trained["steps"] == 10
    # 49 convolutions on the way, 4 in shortcuts, 1 linear layer; each convolution has a BatchNorm.
    assert layers(snn) == 54 and norms(snn) == ran.trained_norms == 53
    neurons = [neuron for _, neuron in snn.neurons()]
    assert len(neurons) == 49
    for neuron in neurons:
        assert isinstance(neuron, LIF) and neuron.leak.item() == pytest.approx(0.9)
        assert neuron.firing.reset == HardReset()
    assert calibrated_from(SuperSpike(alpha=2.0), ran.slopes)
    assert snn(torch.rand(1, *shape), steps=1).shape == (1, classes)
    assert "slopes" not in snn.about and "LeakyNeuron" in str(snn.about["build"])


def test_small_images_get_a_small_stem(recipes: Recipes) -> None:
    recipes.of("cifar100_resnet50_direct")
    snn = recipes.network("cifar100_resnet50_direct")
    first = next(p for p in snn.parameters() if p.dim() == 4)
    assert first.shape[2:] == (3, 3)
    assert snn.pretrained_cfg["crop_pct"] == 1.0


@pytest.mark.parametrize(("depth", "weighted", "between"), [(34, 37, 33), (50, 54, 49)])
def test_imagenet_recipes_train_with_batchnorm_and_fold_it_away(
    depth: int, weighted: int, between: int, recipes: Recipes
) -> None:
    name = f"imagenet_resnet{depth}_hybrid"
    ran, snn = recipes.of(name), recipes.network(name)
    assert ran.shapes == {(3, 224, 224)} and snn.steps == ran.trained["steps"] == 4
    assert layers(snn) == weighted and ran.trained_norms == weighted - 1
    assert norms(snn) == 0
    spiking = [neuron for _, neuron in snn.neurons()]
    assert len(spiking) == between and all(isinstance(neuron, SignedIF) for neuron in spiking)
    assert calibrated_from(Triangle(), ran.slopes)
    assert ran.method == st.Ternary(steps=4)
    assert ran.trained["rule"] == st.SurrogateBPTT(surrogate=None)
    teacher = ran.trained["teacher"]
    assert teacher.pretrained_cfg["architecture"] == f"resnet{depth}"
    assert teacher.pretrained_cfg["tag"] == "a1_in1k"


def test_the_vgg_recipe_is_the_papers(recipes: Recipes) -> None:
    name = "cifar10_vgg16_hybrid"
    ran, snn = recipes.of(name), recipes.network(name)
    assert ran.shapes == {(3, 32, 32)} and snn.steps == ran.trained["steps"] == 100
    assert layers(snn) == 16 and norms(snn) == ran.trained_norms == 0
    assert all(p.dim() > 1 for key, p in snn.named_parameters() if "threshold" not in key)
    assert {type(neuron) for _, neuron in snn.neurons()} == {IF}
    assert not any(isinstance(unit, nn.MaxPool2d) for unit in snn.modules())
    assert ran.method == st.recipe("rathi2020", steps=100) and snn.readout == Membrane()
    rule, training = st.hybrid("rathi2020", epochs=1)
    assert ran.trained["rule"] == rule and ran.trained["training"] == training
    assert snn.pretrained_cfg["mean"] == [0.5] * 3 and snn.pretrained_cfg["std"] == [0.5] * 3


def test_every_file_was_run_and_every_folder_has_one(recipes: Recipes) -> None:
    ran = [file for folder in FOLDERS for file in recipes.of(folder.name).files]
    assert ran == FILES and len(FOLDERS) >= 5
    assert {file.parent for file in ran} == set(FOLDERS)
    assert {file for file in (ROOT / "recipes").rglob("*") if file.is_file()} == set(FILES)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("imagenet_*/tune.yaml")), ids=str)
def test_updates_keep_their_size_on_other_machines(file: Path) -> None:
    said = " ".join(line.lstrip("# ") for line in file.read_text().splitlines())
    (images,) = re.findall(r"batch x accumulate x GPUs = (\d+)", said)
    ways = re.findall(r"--batch (\d+) --training.accumulate (\d+) on (\d+) GPU", said)
    settings = yaml.safe_load(file.read_text())
    (processes,) = re.findall(r"--nproc-per-node (\d+)", said)
    assert len(ways) == 2 and "accumulate" not in settings["training"]
    for batch, accumulate, devices in (*ways, (settings["batch"], 1, processes)):
        assert int(batch) * int(accumulate) * int(devices) == int(images)


def test_the_vgg_is_trained_for_as_many_epochs_as_its_paper_says() -> None:
    text = (ROOT / "recipes/cifar10_vgg16_hybrid/tune.yaml").read_text()
    (most,) = re.findall(r"which are fewer than (\d+)", text)
    assert yaml.safe_load(text)["epochs"] < int(most) == 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_recipe_says_whose_it_is_and_how_to_run_it(file: Path) -> None:
    comment = [line for line in file.read_text().splitlines() if line.startswith("#")]
    said = "\n".join(comment)
    assert f"--config recipes/{file.parent.name}/{file.name}" in said
    assert all(word in said for word in ("Paper", "Ours: ", "Budget: "))
