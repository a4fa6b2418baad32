"""``spiketune tune`` goes on from a run of its own only, and refuses early what would fail late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune import start, tuning
from spiketune.cli import main
from spiketune.snn import TEBN

Capture = pytest.CaptureFixture[str]
NAME = "test_resnet"


def options(network: Path | str, out: Path, *more: str) -> list[str]:
    few = ["--data=digits", "--steps=1", "--epochs=1", "--limit=32", "--batch=16"]
    return ["tune", f"--network={network}", f"--out={out}", *few, *more]


def refused(args: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("spiketune: ")]
    return line


@pytest.fixture(scope="module", params=["file", NAME])
def run(
    request: pytest.FixtureRequest, file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """Return the options that go on with a run on the images of one folder."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "images").mkdir()
    given = file if request.param == "file" else NAME

    def more(*changed: str) -> list[str]:
        where = [f"--root={folder / 'images'}", "--augment=true"]
        return options(given, folder / "a.safetensors", *where, *changed)

    main(more())
    return lambda *changed: more("--resume=true", *changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("--data=mnist", "data was digits, now mnist"),
        ("--limit=31", "limit was 32, now 31"),
        ("--limit=null", "limit was 32, now left out"),
        ("--augment=false", "augment was True, now False"),
        ("--augment=rand-m9", "augment was True, now rand-m9"),
        ("--root=elsewhere", "/elsewhere)"),
        ("--root=null", "images, now left out)"),
    ],
)
def test_a_run_on_other_images_is_not_gone_on_with(
    changed: str, words: str, run: Callable[..., list[str]], capsys: Capture
) -> None:
    error = refused(run(changed), capsys)
    assert "the run was started differently (" in error and words in error
    assert error.count(" was ") == 2 and "resume with the same" in error


def test_the_same_folder_in_other_words_is_the_same(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root,) = [Path(arg.partition("=")[2]) for arg in run() if arg.startswith("--root=")]
    monkeypatch.chdir(root.parent)
    main(run("--root=images/../images"))
    about = st.load(root.parent / "a.safetensors").about
    assert about["epochs"] == 1 and not {"data", "root", "limit", "augment"} & set(about)


def test_slopes_of_another_network_are_not_taken_over(
    file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, other = tmp_path / "a.safetensors", tmp_path / "other.safetensors"
    main(options(file, out, "--calibrate=ATan"))
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    snn = st.to_snn(ann, torch.rand(8, 1, 8, 8), st.Ternary(steps=2))
    assert snn.about["method"] == st.load(file).about["method"]
    st.save(snn, other)
    error = refused(options(other, out, "--calibrate=ATan", "--resume=true"), capsys)
    assert f"{tmp_path / 'a.checkpoint'}: the run was started with a network of other" in error
    assert "resume with the same --network" in error


def test_what_could_not_be_folded_in_the_end_is_not_unfolded(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 10),
    )  # fmt: skip
    path = st.save(st.twin(ann, 1, (1, 8, 8), norm=TEBN()), tmp_path / "tebn.safetensors")
    monkeypatch.setattr(tuning.st, "tune", Mock(side_effect=AssertionError), raising=False)
    monkeypatch.setattr(start.st, "unfold", Mock(side_effect=AssertionError), raising=False)
    error = refused(options(path, tmp_path / "a.safetensors", "--unfold=true"), capsys)
    assert "TEBN" in error and "leave --unfold out" in error
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    main(options(path, tmp_path / "a.safetensors"))


def test_a_teacher_has_to_see_what_the_network_sees(
    file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, weights = tmp_path / "a.safetensors", tmp_path / "teacher.pth"
    snn = st.load(file)
    snn.pretrained_cfg.update(std=[0.5], crop_pct=0.9)
    other = st.save(snn, tmp_path / "other.safetensors")
    error = refused(options(other, out, "--teacher=digits_resnet"), capsys)
    assert "its teacher digits_resnet prepare their images differently (std)" in error
    assert "--teacher_checkpoint" in error and not out.with_suffix(".checkpoint").exists()
    # How weights of one's own were trained, a name does not tell.
    torch.save(st.load_ann("digits_resnet").state_dict(), weights)
    main(options(other, out, "--teacher=digits_resnet", f"--teacher_checkpoint={weights}"))
    assert out.exists()


def test_a_folder_of_that_name_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    main(options(NAME, tmp_path / "a.safetensors"))
    assert "direct test_resnet" in str(st.load(tmp_path / "a.safetensors").about["method"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--calibrate=Triangle"], "--calibrate would do nothing, for QCFS uses no slope; leave"),
        (
            ["--build.neuron=LeakyNeuron", "--build.neuron.firing.surrogate=Triangle"],
            "Triangle(width=1.0) of --build.neuron would do nothing, for QCFS uses no slope",
        ),
    ],
)
def test_a_rule_without_a_slope_is_said_to_have_none(
    more: list[str], words: str, tmp_path: Path, capsys: Capture
) -> None:
    rule = ["--rule=QCFS", "--rule.levels=1"]
    assert words in refused(options(NAME, tmp_path / "a.safetensors", *rule, *more), capsys)
