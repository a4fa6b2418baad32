"""A class or a setting that is not there is named in one sentence, whoever names it."""

from __future__ import annotations

from pathlib import Path

import pytest

import spiketune as st
from spiketune import tuning
from spiketune.cli import main
from spiketune.snn import ATan, Scaled

Capture = pytest.CaptureFixture[str]
FEW = ["tune", "--network=test_resnet", "--out=x.safetensors", "--data=digits", "--steps=1"]


class Given:
    """The rule and the slope that a command would run with."""

    rule: object = None
    calibrate: object = None


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    found = Given()

    def taught_by(rule: object, *_: object, start: tuning.Start, **__: object) -> None:
        found.rule, found.calibrate = rule, start.calibrate
        raise st.SpiketuneError("far enough")

    monkeypatch.setattr(tuning, "taught_by", taught_by)
    return found


def refused(args: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    error = capsys.readouterr().err
    assert stop.value.code == 1, error
    (line,) = error.splitlines()
    assert line.startswith("spiketune: ")
    return line.removeprefix("spiketune: ")


WRONG = [
    (["--training.loss=TED"], "--training.loss TED is unknown; did you mean TET?"),
    (["--rule.surrogate=ATam"], "--rule.surrogate ATam is unknown; did you mean ATan?"),
    (["--rule", "SLTT", "--rule.surrogate", "ATam"], "--rule.surrogate ATam is unknown; did you"),
    (["--rule.slope=ATan"], "--rule.slope is no setting of SurrogateBPTT; it is one of detach"),
    (["--rule=STDB", "--rule.slope=ATan"],
     "--rule.slope ATan is unknown; it is one of Exponential, Linear"),
    (["--rule.surogate=ATan"], "--rule.surogate is no setting of SurrogateBPTT; did you mean surr"),
    (["--rule=QCFS"], "--rule QCFS does not go without its levels; give --rule.levels behind it"),
    (["--training.loss.means=1"], "--training.loss.means is no setting of MeanCrossEntropy; there"),
    (["--training.features.att=x"], "--training.features.att is no setting of Features; did you"),
    (["--build.nrom=TEBN"], "--build.nrom is no setting of Build; did you mean norm?"),
    (["--build.neuron.leak=0.9"],
     "--build.neuron.leak is a setting of a class that is not named; give --build.neuron "
     "LateralNeuron or LeakyNeuron or RefractoryNeuron before it"),
    (["--build.neuron=LeakyNeuron", "--build.neuron.firing.reset=HardRest"],
     "--build.neuron.firing.reset HardRest is unknown; did you mean HardReset?"),
    (["--calibrate=Scaled"],
     "--calibrate Scaled does not go without its surrogate; give --calibrate.surrogate behind it"),
    (["--calibrate.width=2"],
     "give --calibrate Laplace or PiecewiseLinear or Rectangle or Triangle before"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_what_an_option_names_wrongly_is_said(more: list[str], words: str, capsys: Capture) -> None:
    assert words in refused([*FEW, *more], capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "calibrate:\n  class_path: Triangel\n",
            "--calibrate Triangel is unknown; did you mean",
        ),
        ("training:\n  loss: {class_path: TED}\n", "--training.loss TED is unknown"),
        ("build: {norm: TEBM}\n", "--build.norm TEBM is unknown; did you mean TEBN?"),
        ("rule:\n  init_args: {slope: ATan}\n  class_path: STDB\n", "--rule.slope ATan is unknown"),
        (
            "build:\n  neuron:\n    init_args: {leak: 0.9}\n",
            "give --build.neuron LateralNeuron or LeakyNeuron",
        ),
        ("build:\n  neuron: {class_path: LeakyNeuron, init_args: {lek: 1}}\n", "did you mean leak"),
    ],
)
def test_what_a_file_names_wrongly_is_said(
    content: str, words: str, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "tune.yaml"
    file.write_text(content)
    assert words in refused([*FEW, f"--config={file}"], capsys)
    assert words in refused(["tune", "--config", str(file)], capsys)


def test_other_commands_are_looked_at_too(capsys: Capture) -> None:
    convert = ["convert", "--model=digits_resnet", "--data=digits", "--out=x.safetensors"]
    assert "MSE" in refused([*convert, "--method=Binary", "--method.threshold=MES"], capsys)
    assert "sweep --recipes" in refused([*convert, "--method=rathi2020"], capsys)
    assert "--method Binary or" in refused([*convert, "--method.initial=0.5"], capsys)


@pytest.mark.parametrize(
    ("content", "more", "rule"),
    [
        ("limit: 8\n", ["--rule.train_thresholds=false"],
         st.SurrogateBPTT(train_thresholds=False)),
        ("rule: {class_path: STDB}\n", ["--rule.leak=0.9"], st.STDB(leak=0.9)),
        ("rule: STDB\n", ["--rule.leak=0.9"], st.STDB(leak=0.9)),
        ("rule: {class_path: SLTT, init_args: {surrogate: {class_path: ATan}}}\n",
         ["--rule.surrogate.alpha=3"], st.SLTT(surrogate=ATan(alpha=3.0))),
        ("rule: {class_path: SurrogateBPTT, init_args: {detach_reset: false}}\n",
         ["--rule.surrogate=null"], st.SurrogateBPTT(surrogate=None, detach_reset=False)),
    ],
)  # fmt: skip
def test_settings_are_those_of_the_rule_in_the_file_or_of_the_default_one(
    content: str, more: list[str], rule: st.Rule, given: Given, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "tune.yaml"
    file.write_text(content)
    assert refused([*FEW, f"--config={file}", *more], capsys) == "far enough"
    assert given.rule == rule


@pytest.mark.parametrize(
    "more",
    [
        ["--rule=spiketune.STDB", "--rule.leak=0.9"],
        ["--rule=SLTT", "--rule.surrogate=null"],
        ["--build.neuron=spiketune.LeakyNeuron", "--build.neuron.leak=0.7"],
        [
            "--training.schedule_options.min_lr=0.1",
            "--training.optimizer_options={'betas': [0.8, 0.9]}",
        ],
        ["--build.neuron=LeakyNeuron", "--build.neuron.init_args.firing.surrogate=ATan"],
    ],
    ids=str,
)
def test_what_is_right_is_let_through(more: list[str], given: Given, capsys: Capture) -> None:
    assert refused([*FEW, *more], capsys) == "far enough"


def test_a_class_with_all_that_it_needs_is_let_through(given: Given, capsys: Capture) -> None:
    scaled = ["--calibrate=Scaled", "--calibrate.surrogate=ATan", "--calibrate.gain=2"]
    assert refused([*FEW, *scaled], capsys) == "far enough"
    assert given.calibrate == Scaled(surrogate=ATan(), gain=2.0)
    levels = ["--rule=QCFS", "--rule.levels=3"]
    assert refused([*FEW, *levels], capsys) == "far enough"
    assert given.rule == st.QCFS(levels=3)


@pytest.mark.parametrize("option", ["--calibrate.help=ATan", "--training.loss.help=TET"])
def test_help_of_a_class_is_shown(option: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tune", option])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and option.rpartition("=")[2] in shown


def test_a_file_that_cannot_be_read_is_left_to_the_parser(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "broken.yaml").write_text("rule: [\n")
    for name in ("broken.yaml", "missing.yaml"):
        with pytest.raises(SystemExit) as stop:
            main([*FEW, f"--config={tmp_path / name}"])
        assert stop.value.code == 2 and "config" in capsys.readouterr().err
