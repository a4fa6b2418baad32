"""What the commands refuse before any work: places to write, budgets, half a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

import spiketune as st
from spiketune import commands, tuning
from spiketune.cli import main
from spiketune.convert.method import brief

Capture = pytest.CaptureFixture[str]
CONVERT = ["convert", "--model=digits_resnet", "--data=digits", "--limit=40"]
TUNE = ["tune", "--data=digits", "--steps=2", "--epochs=1", "--limit=32"]


def refused(args: list[str], capsys: Capture, code: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    error = capsys.readouterr().err
    assert stop.value.code == code, error
    (line,) = error.splitlines()
    return line.removeprefix("spiketune: ")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any work that a command begins fail."""
    for module, name in ((commands.st, "load_ann"), (commands, "usable_device")):
        monkeypatch.setattr(module, name, Mock(side_effect=AssertionError), raising=False)
    monkeypatch.setattr(tuning, "find_processes", Mock(side_effect=AssertionError))


@pytest.mark.parametrize("command", [CONVERT, [*TUNE, "--network=test_resnet"]])
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "is a folder; name a .safetensors file"),
        ("pipe", "is a device or a pipe; name"),
        ("file/a.safetensors", "file, which is no folder; give another"),
        ("file/b/a.safetensors", "file, which is no folder; give another"),
        # Its checkpoint would be that of a.safetensors.
        ("a", "a is no .safetensors file; give"),
    ],
)
def test_an_out_that_cannot_be_written_is_refused_before_any_work(
    command: list[str], out: str, words: str, idle: None, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    error = refused([*command, f"--out={tmp_path / out}"], capsys)
    assert str(tmp_path / out) in error and words in error
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("command", "option"),
    [(CONVERT, "checkpoint"), (TUNE, "network"),
     ([*TUNE, "--network=test_resnet", "--teacher=digits_resnet"], "teacher_checkpoint")],
)  # fmt: skip
@pytest.mark.parametrize("out", ["read.safetensors", "link.safetensors"])
def test_what_is_read_is_not_written_over(
    command: list[str], option: str, out: str, idle: None, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "read.safetensors"
    file.write_text("kept")
    (tmp_path / "link.safetensors").symlink_to(file)
    error = refused([*command, f"--{option}={file}", f"--out={tmp_path / out}"], capsys)
    assert f"is the file that --{option} reads" in error and "another --out" in error


@pytest.fixture(scope="module")
def rathi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("networks") / "rathi.safetensors"
    main([*CONVERT, f"--out={out}", "--recipe=rathi2020", "--steps=3"])
    return out


def test_convert_makes_a_papers_network(rathi: Path) -> None:
    snn = st.load(rathi)
    assert snn.about["method"] == brief(st.recipe("rathi2020", 3)) and snn.steps == 3
    assert snn.readout == st.recipe("rathi2020", 3).readout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--recipe=rathi2020"], "give --steps, such as"),
        (["--recipe=rathi2021", "--steps=3"], "did you mean rathi2020"),
        (["--recipe=rathi2020", "--steps=3", "--method=Binary"], "leave --method out, or --recipe"),
        (["--recipe=rathi2020", "--steps=0"], "at least 1"),
        (["--steps=3"], "give --method.steps 3 behind --method"),
        (["--method=rathi2020"], "goes to convert --recipe, or sweep --recipes"),
    ],
)
def test_half_a_recipe_is_refused(
    more: list[str], words: str, tmp_path: Path, capsys: Capture
) -> None:
    assert words in refused([*CONVERT, f"--out={tmp_path / 'a.safetensors'}", *more], capsys)


def test_a_hybrid_on_another_conversion_is_noted(
    rathi: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name, noted in (("rathi2020", False), ("diet2021", True)):
        out = tmp_path / f"{name}.safetensors"
        main([*TUNE, f"--network={rathi}", f"--hybrid={name}", f"--out={out}"])
        note = capsys.readouterr().err
        assert (
            "--hybrid diet2021 is" in note and "no `convert --recipe diet2021`" in note
        ) is noted
    # Trained further, at other steps than it was converted for, it is still the paper's.
    again = tmp_path / "again.safetensors"
    tuned = f"--network={tmp_path / 'rathi2020.safetensors'}"
    main([*TUNE, tuned, "--hybrid=rathi2020", f"--out={again}"])
    assert "Note" not in capsys.readouterr().err


def test_a_finished_run_is_said_to_be_finished(
    rathi: Path, tmp_path: Path, capsys: Capture
) -> None:
    args = [*TUNE, f"--network={rathi}", f"--out={tmp_path / 'a.safetensors'}"]
    main(args)
    capsys.readouterr()
    error = refused(args, capsys)
    assert f"{tmp_path / 'a.checkpoint'}: holds an earlier run, which is finished; delete" in error
    (tmp_path / "a.checkpoint").unlink()
    main(args)


def test_a_network_of_other_steps_is_named_before_any_runs(
    rathi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "psn.safetensors"
    main([*TUNE, "--network=test_resnet", "--build.neuron=ParallelNeuron", f"--out={out}"])
    capsys.readouterr()
    sweep = ["sweep", f"--networks={rathi},{out}", "--data=digits", "--limit=16"]
    monkeypatch.setattr(commands.st, "sweep", Mock(side_effect=AssertionError), raising=False)
    monkeypatch.setattr(commands.st, "load_ann", Mock(side_effect=AssertionError), raising=False)
    error = refused([*sweep, "--steps=8", "--ann=digits_resnet", "--recipes=rathi2020"], capsys)
    assert "'psn' has a PSN made for 2 steps and cannot run 8; give steps=2 (--steps 2" in error
    assert "leave this network out" in error


def test_a_device_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    out = f"--out={tmp_path / 'a.safetensors'}"
    for command in (CONVERT, [*TUNE, "--network=test_resnet"]):
        error = refused([*command, out, "--device=abacus"], capsys)
        assert "'abacus' cannot be used here" in error and "--device cpu" in error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--steps=four"], "--steps must be a whole number, not four; see `spiketune tune --help`"),
        (["--limit", "x y"], "--limit must be a whole number, not x y; see"),
        (["--rule=SLTT", "--rule.k=two"], "--rule.k must be a whole number, not two; see"),
        (["--training.warmup=x"], "--training.warmup must be a number, not x; see"),
        (["--resume=perhaps"], "--resume must be true or false, not perhaps; see"),
        (["--precision=f"], "must be one of ['auto', 'float32', 'bfloat16'], not f; see"),
        (["--frob=3"], "unrecognized arguments: --frob=3; see `spiketune tune --help`"),
    ],
)
def test_a_value_of_another_type_is_said_in_one_line(
    more: list[str], words: str, capsys: Capture
) -> None:
    assert words in refused([*TUNE, "--network=a", "--out=a.safetensors", *more], capsys, code=2)


def test_a_files_wrong_key_is_said_with_the_file(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "tune.yaml"
    file.write_text("epoch: 2\n")
    error = refused([*TUNE, f"--config={file}"], capsys)
    assert error == f"{file}: --epoch is no option of tune; did you mean epochs?"
    file.write_text("rule: {class_path: SLTT, init_args: {kk: 2}}\n")
    assert f"{file}: --rule.kk is no setting of SLTT" in refused(
        [*TUNE, f"--config={file}"], capsys
    )
    file.write_text("rule: {class_path: SLTT, init_args: {k: two}}\n")
    error = refused([*TUNE, f"--config={file}", "--network=a", "--out=a.safetensors"], capsys, 2)
    assert "--rule.k must be a whole number, not two" in error
