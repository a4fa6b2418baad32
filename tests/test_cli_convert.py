from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.cli import main
from spiketune.snn import Membrane

Capture = pytest.CaptureFixture[str]
DIGITS = ["--model=digits_resnet", "--data=digits"]


def refused(args: list[str], capsys: Capture) -> str:
    """Run a command that must fail, and return its one sentence."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("spiketune: ")]
    return line


def test_check_gives_the_verdict_first_then_groups(capsys: Capture) -> None:
    main(["check", "--model=digits_resnet"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits_resnet converts completely: 7 neuron layers")
    assert ["relu", "neuron", "7"] in [line.split() for line in lines]
    assert len(lines) < 12
    assert not any("layer1.0" in line for line in lines)


class Sorted(nn.Module):
    """Sorts: there is no rule for that."""

    pretrained_cfg: ClassVar[dict[str, object]] = {"input_size": (1, 4, 4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).sort(2).values.mean((2, 3))


def test_check_names_what_has_no_rule_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(st, "load_ann", lambda *_: Sorted().eval(), raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["check", "--model=sorted"])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("sorted does not convert: ")
    assert ["sort", "refused", "1"] in [line.split() for line in shown.out.splitlines()]
    assert "no rule for sort x1" in shown.err


@pytest.mark.parametrize("switch", ["--all", "--all=true"])
def test_check_lists_everything_on_demand(switch: str, tmp_path: Path, capsys: Capture) -> None:
    main(["check", "--model=digits_resnet", switch, f"--json={tmp_path / 'a' / 'report.json'}"])
    shown = capsys.readouterr().out
    assert "layer1.0.act1" in shown
    rows = json.loads((tmp_path / "a" / "report.json").read_text())["rows"]
    assert all(row["path"] in shown for row in rows)


def test_another_method_has_its_own_defaults(tmp_path: Path) -> None:
    out = tmp_path / "graded.safetensors"
    main(["convert", *DIGITS, f"--out={out}", "--method=Graded", "--limit=64"])
    snn = st.load(out)
    assert snn.steps == st.Graded().steps
    assert "threshold=Max()" in str(snn.about["method"])


def test_burst_is_a_method_of_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "burst.safetensors"
    method = ["--method=Burst", "--method.most=3", "--method.steps=2"]
    main(["convert", *DIGITS, f"--out={out}", *method, "--limit=64"])
    assert "Burst(steps=2, threshold=MSE(), most=3)" in str(st.load(out).about["method"])


def test_ceiling(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "ceiling.json"
    main(["ceiling", *DIGITS, "--levels=2,8", "--limit=100", f"--json={file}"])
    shown = capsys.readouterr().out
    data = json.loads(file.read_text())
    assert [row["levels"] for row in data["rows"]] == [2, 8]
    assert data["images"] == 100 and f"{data['rows'][1]['top1']:.2f}" in shown
    assert "within 1 point of the ANN" in shown
    assert "whole numbers" in refused(["ceiling", *DIGITS, "--levels=2,b"], capsys)


def test_ceiling_takes_thresholds_from_training_images_only(capsys: Capture) -> None:
    main(["ceiling", *DIGITS, "--levels=[3]", "--limit=80", "--threshold=Max", "--per=layer"])
    ann = st.load_ann("digits_resnet")
    train = st.load_data("digits", "train", cfg=ann, limit=80).tensors[0]
    x, y = st.load_data("digits", "test", cfg=ann, limit=80).tensors
    found = st.ceiling(ann, [(x, y)], 3, calibration=train, threshold=st.Max(), per="layer")
    assert str(found) in capsys.readouterr().out


def test_doctor_on_a_model_and_on_a_file(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "seen"
    few = ["--data=digits", "--limit=64", "--images=16", f"--out={out}"]
    main(["doctor", "--model=digits_resnet", *few, "--method=Binary", "--method.steps=3"])
    shown = capsys.readouterr().out
    data = json.loads((out / "doctor.json").read_text())
    assert data["steps"] == 3 and data["images"] == 16 and len(data["layers"]) == 7
    assert all(sentence in shown for sentence in data["advice"])
    assert (out / "doctor.png").read_bytes()[:4] == b"\x89PNG"
    file = tmp_path / "t.safetensors"
    main(["convert", *DIGITS, f"--out={file}", "--method.steps=5", "--limit=64"])
    main(["doctor", f"--network={file}", *few, "--steps=2"])
    data = json.loads((out / "doctor.json").read_text())
    assert data["steps"] == 2 and "Graded(steps=5" in data["method"]


def test_doctor_wants_one_network(capsys: Capture) -> None:
    assert "--model" in refused(["doctor", "--data=digits"], capsys)
    both = ["doctor", *DIGITS, "--network=x.safetensors"]
    assert "one of them" in refused(both, capsys)


def test_recipes_are_listed(capsys: Capture) -> None:
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [one.name for one in st.recipes()]


def test_sweep_mixes_recipes_and_networks(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "rmp2020.safetensors"  # a name that a recipe has too
    main(["convert", *DIGITS, f"--out={file}", "--method.steps=4", "--limit=64"])
    capsys.readouterr()
    out = tmp_path / "sweep"
    main(
        [
            "sweep", "--ann=digits_resnet", "--recipes=rmp2020, graded", "--recipe_steps=8",
            f"--networks={file}", "--data=digits", "--steps=4", "--limit=64", "--within=2",
            f"--out={out}",
        ]
    )  # fmt: skip
    table = st.Table.load(out)
    assert table.models == ("digits_resnet", "rmp2020", "graded", str(file))
    assert table.row("rmp2020", 1).method == (
        "Binary(steps=8, threshold=Max(), per='layer', initial=0.0)"
    )
    assert table.row("graded", 4).calibration_images == 64
    shown = capsys.readouterr().out
    assert "Fewest steps within 2 points of digits_resnet:" in shown
    for name in table.models[1:]:
        best = table.best_budget(name, 2.0)
        wanted = "more than 4" if best is None else str(best)
        assert any(line.split(maxsplit=1) == [name, wanted] for line in shown.splitlines())


def test_recipes_that_make_no_sense(capsys: Capture) -> None:
    both = ["sweep", "--data=digits"]
    message = refused([*both, "--ann=digits_resnet", "--recipes=rueckauer2016"], capsys)
    assert "rueckauer2017" in message
    assert "--ann" in refused([*both, "--recipes=graded"], capsys)
    assert "nothing to compare" in refused(both, capsys)


def test_settings_out_of_a_union_are_the_ones_that_were_named(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    args = ["convert", *DIGITS, f"--out={out}", "--limit=40"]
    main([*args, "--method=Binary", "--method.steps=2", "--method.readout=Membrane"])
    assert st.load(out).readout == Membrane()
    main([*args, "--method=Graded", "--method.schedule=Harmonic"])
    assert "schedule=Harmonic()" in str(st.load(out).about["method"])
