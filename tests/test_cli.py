from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import spiketune as st
from spiketune import commands
from spiketune.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "t4.safetensors"
    main(["convert", "--model=digits_resnet", f"--out={path}", "--method.steps=4", "--limit=200"])
    return path


def refused(args: list[str], capsys: Capture) -> str:
    """Run a command that must fail, and return its one sentence."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("spiketune: ")]
    assert len(lines) == 1
    return lines[0]


def test_convert_writes_the_network_that_the_library_makes(converted: Path) -> None:
    ann = st.load_ann("digits_resnet")
    test = st.load_data("digits", "test", cfg=ann, limit=64)
    snn = st.load(converted)
    assert snn.steps == 4
    assert snn.about["calibration_images"] == 200
    with torch.no_grad():
        agreement = (snn(test.tensors[0]).argmax(1) == ann(test.tensors[0]).argmax(1)).float()
    assert agreement.mean() > 0.9


def test_tune_then_sweep_from_the_command_line(
    converted: Path, tmp_path: Path, capsys: Capture
) -> None:
    tuned = tmp_path / "t2.safetensors"
    train = ["--steps=2", "--epochs=1", "--limit=128", f"--out={tuned}"]
    main(["tune", f"--network={converted}", "--teacher.model=digits_resnet", *train])
    assert "Test accuracy" in capsys.readouterr().out
    assert st.load(tuned).about["tuned_steps"] == 2
    both = f"--networks=[{converted}, {tuned}]"
    out = tmp_path / "sweep"
    main(["sweep", both, "--steps=3", "--limit=64", "--ann.model=digits_resnet", f"--out={out}"])
    table = st.Table.load(out)
    assert table.models == ("digits_resnet", "t4", "t2")
    assert table.budgets == (1, 2, 3)
    assert {p.name for p in out.iterdir()} >= {
        "table.csv", "table.json", "curves.png", "report.html",
    }  # fmt: skip


def test_a_named_network_is_trained_directly(tmp_path: Path) -> None:
    out = tmp_path / "direct.safetensors"
    main(["tune", "--network=test_resnet", "--steps=2", "--epochs=1", "--limit=64", f"--out={out}"])
    assert "direct" in str(st.load(out).about["method"])


def test_a_configuration_file_sets_what_the_options_set(tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    config = tmp_path / "convert.yaml"
    config.write_text(
        f"model: digits_resnet\nout: {out}\nlimit: 100\n"
        "method:\n  class_path: Binary\n  init_args:\n    steps: 6\n"
        "    threshold:\n      class_path: Percentile\n      init_args: {percent: 99.0}\n"
    )
    main(["convert", f"--config={config}"])
    snn = st.load(out)
    assert snn.steps == 6
    assert "Percentile(percent=99.0)" in str(snn.about["method"])


def test_check_lists_what_has_no_rule_and_fails(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", "--model=test_vit", "--pretrained=false"])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "layer_norm" in shown.out
    assert "blocks.0.norm1" in shown.err


def test_an_unknown_model_is_met_with_near_names(capsys: Capture) -> None:
    assert "resnet18" in refused(["check", "--model=resnet18x"], capsys)


def test_an_unknown_data_set_is_met_with_near_names(capsys: Capture) -> None:
    args = ["convert", "--model=digits_resnet", "--out=x.safetensors", "--data=digit"]
    assert "digits" in refused(args, capsys)


def test_steps_below_one(capsys: Capture) -> None:
    args = ["convert", "--model=digits_resnet", "--out=x.safetensors", "--method.steps=0"]
    assert "at least 1" in refused(args, capsys)


def test_a_file_cut_short(converted: Path, tmp_path: Path, capsys: Capture) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(converted.read_bytes()[:-100])
    assert "copy or make it again" in refused(["sweep", f"--networks=[{short}]"], capsys)


def test_a_checkpoint_of_another_network(tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a.weight": torch.zeros(2, 2)}, other)
    message = refused(
        ["convert", "--model=digits_resnet", f"--checkpoint={other}", "--out=x.safetensors"], capsys
    )
    assert "a.weight" in message
    assert "no spiking network" in refused(["sweep", f"--networks=[{other}]"], capsys)


def test_resuming_another_run_keeps_its_checkpoint(
    converted: Path, tmp_path: Path, capsys: Capture
) -> None:
    args = ["tune", f"--network={converted}", "--steps=1", "--limit=64", "--epochs=1"]
    args += [f"--out={tmp_path / 'a.safetensors'}"]
    main(args)
    checkpoint = tmp_path / "a.checkpoint"
    before = checkpoint.read_bytes()
    refused([*args, "--resume=true", "--training.learning_rate=0.5"], capsys)
    assert checkpoint.read_bytes() == before


def test_ctrl_c_says_where_the_checkpoint_is(
    converted: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = commands.st.tune

    def interrupted(*args: object, **kwargs: object) -> object:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        return learn(*args, **{**kwargs, "on_epoch": stop})

    monkeypatch.setattr(commands.st, "tune", interrupted, raising=False)
    out = tmp_path / "c.safetensors"
    args = ["tune", f"--network={converted}", "--steps=1", "--epochs=2", f"--out={out}"]
    with pytest.raises(SystemExit) as stop:
        main([*args, "--limit=64"])
    assert stop.value.code == 130
    assert str(tmp_path / "c.checkpoint") in capsys.readouterr().err
    monkeypatch.undo()
    main([*args, "--limit=64", "--resume=true"])
    assert out.exists()


def test_importing_one_room_costs_no_other() -> None:
    code = (
        "import sys, spiketune.convert, torch; "
        "print([m for m in ('timm', 'torchvision', 'sklearn', 'matplotlib') if m in sys.modules], "
        "torch.cuda.is_initialized())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] False"
