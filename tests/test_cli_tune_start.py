"""What ``spiketune tune`` starts from: built by name or unfolded, calibrated, and found again."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import spiketune as st
from spiketune import start, tuning
from spiketune.cli import main
from spiketune.snn import LIF, PLIF, PSN, ATan, Firing, Scaled, SuperSpike, Triangle
from spiketune.snn.norms import TemporalBatchNorm, ThresholdBatchNorm
from spiketune.untrained import Build
from spiketune.zoo.colour import image_transform

Capture = pytest.CaptureFixture[str]


class Noted:
    """What the trainer was given, and the network as it was before the first update."""

    first: st.SpikingNetwork
    last: st.SpikingNetwork
    rule: Any
    settings: dict[str, Any]


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    found, learn = Noted(), st.tune

    def note(snn: st.SpikingNetwork, loader: Any, rule: Any, **settings: Any) -> Any:
        found.first, found.rule, found.settings = deepcopy(snn), rule, settings
        history = learn(snn, loader, rule, **settings)
        found.last = deepcopy(snn)
        return history

    monkeypatch.setattr(tuning.st, "tune", note, raising=False)
    return found


def options(network: Path | str, out: Path, *more: str) -> list[str]:
    few = ["--data=digits", "--steps=2", "--epochs=1", "--limit=32", "--batch=16"]
    return ["tune", f"--network={network}", f"--out={out}", *few, *more]


def images(count: int = 16) -> Tensor:
    shown = st.load_data("digits", "test", limit=count)
    return torch.stack([x for x, _ in shown])


def refused(args: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("spiketune: ")]
    return line


def test_building_options_build_what_the_library_builds(tmp_path: Path, noted: Noted) -> None:
    main(
        options(
            "test_resnet", tmp_path / "a.safetensors", "--seed=5",
            "--build.neuron=ParametricNeuron", "--build.neuron.tau=3", "--build.norm=TDBN",
            "--build.connect=iand", "--build.stem_stride=1", "--build.image_size=12",
        )
    )  # fmt: skip
    torch.manual_seed(5)
    expected = st.sew_resnet(
        "test_resnet", 10, 2, connect="iand", in_chans=1, image_size=12, stem_stride=1,
        neuron=st.ParametricNeuron(tau=3.0), norm=st.TDBN(),
    )  # fmt: skip
    assert noted.first.input_shape == (1, 12, 12)
    assert str(noted.first.about["method"]) == "direct sew-iand test_resnet"
    torch.testing.assert_close(noted.first.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert any(isinstance(unit, ThresholdBatchNorm) for unit in noted.first.modules())
    assert all(isinstance(neuron, PLIF) for _, neuron in noted.first.neurons())


@pytest.mark.parametrize(
    ("more", "kind", "norm"),
    [
        (["--build.neuron=ParallelNeuron", "--build.neuron.order=2"], PSN, _BatchNorm),
        (["--build.neuron=LeakyNeuron", "--build.norm=TEBN"], LIF, TemporalBatchNorm),
    ],
)
def test_kinds_are_saved(more: list[str], kind: type, norm: type, tmp_path: Path) -> None:
    main(options("test_resnet", tmp_path / "a.safetensors", *more))
    snn = st.load(tmp_path / "a.safetensors")
    assert all(isinstance(neuron, kind) for _, neuron in snn.neurons())
    assert any(isinstance(unit, norm) for unit in snn.modules())


def test_small_pictures_are_not_cut_for_a_network_trained_on_them() -> None:
    picture = torch.randint(256, (32, 32, 3), generator=torch.Generator().manual_seed(0))
    snn = Build().network("test_resnet", 2, "cifar10", None)
    info = st.data_info("cifar10")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std))
    seen = image_transform(info, snn.pretrained_cfg)(
        Image.fromarray(picture.to(torch.uint8).numpy())
    )
    torch.testing.assert_close(seen, (picture.permute(2, 0, 1) / 255 - mean) / std)


def test_unfold_trains_with_batchnorm_and_saves_without(
    file: Path, tmp_path: Path, noted: Noted
) -> None:
    out = tmp_path / "a.safetensors"
    main(options(file, out, "--unfold=true"))
    before, saved, x = st.load(file), st.load(out), images()
    assert any(isinstance(unit, _BatchNorm) for unit in noted.first.modules())
    assert not any(isinstance(unit, _BatchNorm) for unit in saved.modules())
    torch.testing.assert_close(noted.first.eval()(x), before(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(saved(x), noted.last(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(saved(x), before(x), atol=1e-2)
    assert noted.rule == st.SurrogateBPTT()


def test_calibrated_slopes_are_trained_with_and_saved(tmp_path: Path, noted: Noted) -> None:
    out = tmp_path / "a.safetensors"
    main(options("test_resnet", out, "--calibrate=SuperSpike", "--calibrate.alpha=10"))
    norms = list(st.gradient_norms(noted.first, images(32), steps=2).values())
    torch.manual_seed(0)
    plain = st.spiking("test_resnet", 10, 2, in_chans=1, image_size=8)
    for _, neuron in plain.neurons():
        neuron.firing = Firing(surrogate=SuperSpike(alpha=10.0))
    worse = list(st.gradient_norms(plain, images(32), steps=2).values())
    assert 0.5 < norms[1] / norms[-1] < 2 and worse[1] / worse[-1] < 0.25
    assert noted.rule == st.SurrogateBPTT(surrogate=None)
    slopes = [neuron.firing.surrogate for _, neuron in noted.first.neurons()]
    assert any(isinstance(slope, Scaled) for slope in slopes)
    saved = st.load(out)
    assert [neuron.firing.surrogate for _, neuron in saved.neurons()] == slopes
    assert saved.about["calibrate"] == "SuperSpike(alpha=10.0)" and "slopes" not in saved.about


def test_a_hybrid_is_rule_and_training_of_the_paper(tmp_path: Path, noted: Noted) -> None:
    converted = tmp_path / "c.safetensors"
    args = ["--data=digits", "--limit=40", "--method=Binary", "--method.steps=2"]
    main(["convert", "--model=digits_resnet", f"--out={converted}", *args])
    main(options(converted, tmp_path / "a.safetensors", "--hybrid=diet2021"))
    rule, training = st.hybrid("diet2021", epochs=1)
    assert noted.rule == rule and noted.settings["training"] == training
    main(options(converted, tmp_path / "b.safetensors", "--rule=DIET"))
    assert noted.rule == st.DIET() and noted.settings["training"] == st.Training()


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (["--rule=SLTT"], st.SLTT()),
        # Both have an alpha, of which Sigmoid(), the default, has another.
        (["--rule=SurrogateBPTT", "--rule.surrogate=SuperSpike"],
         st.SurrogateBPTT(surrogate=SuperSpike(alpha=10.0))),
        (["--rule.train_thresholds=false"], st.SurrogateBPTT(train_thresholds=False)),
        (["--rule=OTTT", "--rule.surrogate=ATan"], st.OTTT(surrogate=ATan(alpha=2.0))),
    ],
)  # fmt: skip
def test_a_rule_has_its_own_defaults(
    more: list[str], rule: st.Rule, file: Path, tmp_path: Path, noted: Noted
) -> None:
    main(options(file, tmp_path / "a.safetensors", *more))
    assert noted.rule == rule


NAME = "test_resnet"


@pytest.mark.parametrize(
    ("network", "more", "words"),
    [
        ("file", ["--build.norm=TEBN"], ["--build.norm would do nothing", "resnet18"]),
        ("file", ["--num_classes=10"], ["--num_classes would do nothing"]),
        (NAME, ["--unfold=true"], ["--unfold", "trained from scratch", "leave --unfold out"]),
        (NAME, ["--hybrid=rathi2020", "--rule=STDB"], ["--rule", "leave out the one or"]),
        (NAME, ["--hybrid=rathi2020", "--training.momentum=0.5", "--training.optimizer=sgd"],
         ["--training", "leave out the one or"]),
        (NAME, ["--hybrid=rathi2021"], ["did you mean rathi2020"]),
        (NAME, ["--calibrate=Triangle", "--rule=STDB"], ["--calibrate", "STDB", "null"]),
        (NAME, ["--calibrate=Triangle", "--hybrid=diet2021"], ["--calibrate", "DIET"]),
        (NAME, ["--calibrate=Triangle", "--rule=SurrogateBPTT"], ["--rule.surrogate null"]),
        (NAME, ["--build.neuron=LeakyNeuron", "--build.neuron.firing.surrogate=Triangle"],
         ["Triangle(width=1.0) of --build.neuron would do nothing", "give it to --rule"]),
        (NAME, ["--build.neuron=LeakyNeuron", "--build.neuron.firing.surrogate=Triangle",
                "--calibrate=SuperSpike"], ["--calibrate sets the slope"]),
        (NAME, ["--build.neuron=LeakyNeuron", "--build.neuron.firing.detach_reset=false"],
         ["detach_reset would do nothing", "give it to --rule"]),
        (NAME, ["--build.image_size=0"], ["image_size", "at least 1"]),
        (NAME, ["--build.stem_stride=0"], ["stride of a stem must be at least 1"]),
        (NAME, ["--build.connect=and", "--build.neuron=ParallelNeuron"], ["'add' or 'iand'"]),
        (NAME, ["--num_classes=0"], ["num_classes must be at least 1"]),
        (NAME, ["--teacher_checkpoint=a.pth"], ["--teacher has to name"]),
        (NAME, ["--resume=true"], ["no checkpoint to resume"]),
    ],
)  # fmt: skip
def test_what_cannot_act_is_refused(
    network: str, more: list[str], words: list[str], file: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = file if network == "file" else network
    error = refused(options(given, tmp_path / "a.safetensors", *more), capsys)
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def test_a_neurons_own_slope_stays_where_the_rule_leaves_it(tmp_path: Path, noted: Noted) -> None:
    main(
        options(
            NAME, tmp_path / "a.safetensors",
            "--build.neuron=LeakyNeuron", "--build.neuron.firing.surrogate=Triangle",
            "--rule=SurrogateBPTT", "--rule.surrogate=null",
        )
    )  # fmt: skip
    assert {neuron.firing.surrogate for _, neuron in noted.last.neurons()} == {Triangle()}


def test_a_teachers_file_moves_no_statistics(tmp_path: Path, noted: Noted) -> None:
    weights = tmp_path / "teacher.pth"
    torch.save(st.load_ann("digits_resnet").state_dict(), weights)
    teacher = ["--teacher=digits_resnet", f"--teacher_checkpoint={weights}"]
    main(options(NAME, tmp_path / "a.safetensors", *teacher))
    counted = [v for k, v in noted.first.state_dict().items() if k.endswith("batches_tracked")]
    assert counted and all(int(count) == 0 for count in counted)
    assert type(noted.settings["teacher"]).__name__ == "ResNet"


START = {
    "file": ["--unfold=true", "--calibrate=Triangle"],
    NAME: ["--build.neuron=ParametricNeuron", "--build.norm=TEBN", "--calibrate=ATan"],
}


@pytest.mark.parametrize("network", START)
def test_a_run_that_stopped_goes_on_exactly(
    network: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = file if network == "file" else network
    more = [*START[network], "--epochs=2", "--augment=true"]
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    main(options(given, whole, *more))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(tuning, "_print_epoch", Mock(side_effect=KeyboardInterrupt))
        main(options(given, parts, *more))
    assert not parts.exists()
    # Slopes come out of the checkpoint.
    monkeypatch.setattr(start.st, "calibrate_gain", Mock(side_effect=AssertionError), raising=False)
    main(options(given, parts, *more, "--resume=true"))
    one, two = st.load(whole), st.load(parts)
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=0, atol=0)
    assert {**one.about, "seconds": 0} == {**two.about, "seconds": 0}
    slopes = [[neuron.firing for _, neuron in snn.neurons()] for snn in (one, two)]
    assert slopes[0] == slopes[1]


def test_a_run_goes_on_from_the_network_it_was_started_with_only(
    file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "a.safetensors"
    kind = ["--build.neuron=ParametricNeuron"]
    main(options(NAME, out, *kind, "--build.neuron.tau=2", "--calibrate=ATan"))
    more = ["--resume=true", "--build.neuron.tau=4", "--calibrate=Triangle"]
    error = refused(options(NAME, out, *kind, *more), capsys)
    kinds = ("ParametricNeuron()", "ParametricNeuron(tau=4.0)")
    assert f"build was Build(neuron={kinds[0]}), now Build(neuron={kinds[1]})" in error
    assert "calibrate was ATan(alpha=2.0), now Triangle(width=1.0)" in error
    other = tmp_path / "b.safetensors"
    main(options(file, other))
    error = refused(options(file, other, "--unfold=true", "--resume=true"), capsys)
    assert "method was Ternary(steps=2, threshold=MSE()), now" in error
    assert "BN on currents" in error


def test_what_a_file_was_built_with_does_not_hinder_its_next_training(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    main(options(NAME, first, "--build.norm=SharedBN", "--calibrate=ATan"))
    main(options(first, second))
    main(options(first, second, "--resume=true"))
    assert st.load(second).about["epochs"] == 2
