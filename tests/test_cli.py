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
from spiketune.snn import dependencies
from spiketune.snn.ops import FUNCTIONS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "t4.safetensors"
    args = ["--data=digits", f"--out={path}", "--method.steps=4", "--limit=200"]
    main(["convert", "--model=digits_resnet", *args])
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
    train = st.load_data("digits", "train", cfg=ann, limit=200)
    expected = st.to_snn(ann, [(x.unsqueeze(0), y) for x, y in train], st.Graded(steps=4))
    snn = st.load(converted)
    assert snn.steps == 4
    assert snn.about["calibration_images"] == 200
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(snn.state_dict()[name], value)


def test_tune_then_sweep_from_the_command_line(
    converted: Path, tmp_path: Path, capsys: Capture
) -> None:
    tuned = tmp_path / "t2.safetensors"
    train = ["--data=digits", "--steps=2", "--epochs=1", "--limit=128", f"--out={tuned}"]
    main(["tune", f"--network={converted}", "--teacher=digits_resnet", *train])
    assert "Test accuracy" in capsys.readouterr().out
    assert st.load(tuned).about["tuned_steps"] == 2
    both = f"--networks=[{converted}, {tuned}]"
    out = tmp_path / "sweep"
    main(
        [
            "sweep",
            both,
            "--data=digits",
            "--steps=3",
            "--limit=64",
            "--ann=digits_resnet",
            f"--out={out}",
        ]
    )
    table = st.Table.load(out)
    assert table.models == ("digits_resnet", "t4", "t2")
    assert table.budgets == (1, 2, 3)
    assert {p.name for p in out.iterdir()} >= {
        "table.csv", "table.json", "curves.png", "report.html",
    }  # fmt: skip


def test_a_named_network_is_trained_directly(tmp_path: Path) -> None:
    out = tmp_path / "direct.safetensors"
    train = ["--data=digits", "--steps=2", "--epochs=1", "--limit=64", f"--out={out}"]
    main(["tune", "--network=test_resnet", *train])
    assert "direct" in str(st.load(out).about["method"])


def test_networks_that_see_other_images_are_not_compared(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "direct.safetensors"
    train = ["--data=digits", "--steps=1", "--epochs=1", "--limit=32", f"--out={out}"]
    main(["tune", "--network=test_resnet", *train])
    snn = st.load(out)
    assert snn.pretrained_cfg["mean"] == list(st.data_info("digits").mean)
    snn.pretrained_cfg["mean"] = [0.9]
    other = st.save(snn, tmp_path / "other.safetensors")
    message = refused(["sweep", "--data=digits", f"--networks={out},{other}"], capsys)
    assert "mean" in message and "two runs" in message


def test_a_configuration_file_sets_what_the_options_set(tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    config = tmp_path / "convert.yaml"
    config.write_text(
        f"model: digits_resnet\ndata: digits\nout: {out}\nlimit: 100\n"
        "method:\n  class_path: Binary\n  init_args:\n    steps: 6\n"
        "    threshold:\n      class_path: Percentile\n      init_args: {percent: 99.0}\n"
    )
    main(["convert", f"--config={config}"])
    snn = st.load(out)
    assert snn.steps == 6
    assert "Percentile(percent=99.0)" in str(snn.about["method"])


def test_check_lists_what_has_no_rule_and_fails(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rule is taken away: what of timm is refused today may have one tomorrow.
    left = FUNCTIONS - {torch.ops.aten.layer_norm.default}
    monkeypatch.setattr(dependencies, "FUNCTIONS", left)
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
    args = [
        "convert",
        "--model=digits_resnet",
        "--data=digits",
        "--out=x.safetensors",
        "--method.steps=0",
    ]
    assert "at least 1" in refused(args, capsys)


def test_a_file_cut_short(converted: Path, tmp_path: Path, capsys: Capture) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(converted.read_bytes()[:-100])
    assert "copy or make it again" in refused(
        ["sweep", "--data=digits", f"--networks=[{short}]"], capsys
    )


def test_a_checkpoint_of_another_network(tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a.weight": torch.zeros(2, 2)}, other)
    message = refused(
        [
            "convert",
            "--model=digits_resnet",
            f"--checkpoint={other}",
            "--out=x.safetensors",
            "--data=digits",
        ],
        capsys,
    )
    assert "a.weight" in message
    assert "no spiking network" in refused(
        ["sweep", "--data=digits", f"--networks=[{other}]"], capsys
    )


def test_resuming_another_run_keeps_its_checkpoint(
    converted: Path, tmp_path: Path, capsys: Capture
) -> None:
    args = [
        "tune",
        f"--network={converted}",
        "--data=digits",
        "--steps=1",
        "--limit=64",
        "--epochs=1",
    ]
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
    args = ["tune", f"--network={converted}", "--data=digits", "--steps=1", "--epochs=2"]
    args += [f"--out={out}"]
    with pytest.raises(SystemExit) as stop:
        main([*args, "--limit=64"])
    assert stop.value.code == 130
    assert str(tmp_path / "c.checkpoint") in capsys.readouterr().err
    monkeypatch.undo()
    main([*args, "--limit=64", "--resume=true"])
    assert out.exists()


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--batch=0", "batch"),
        ("--device=abacus", "device"),
        ("--out=/proc/nowhere/x.safetensors", "path"),
        ("--method.threshold.init_args.levels=0", "levels"),
        ("--method.initial=2", "initial"),
        ("--limit=0", "limit"),
    ],
)
def test_a_wrong_option(option: str, word: str, tmp_path: Path, capsys: Capture) -> None:
    args = [
        "convert",
        "--model=digits_resnet",
        "--data=digits",
        f"--out={tmp_path / 'x.safetensors'}",
    ]
    first = {"levels": ["--method.threshold=MSE"], "initial": ["--method=Binary"]}
    assert word in refused([*args, *first.get(word, []), option], capsys)


def test_networks_of_one_name_both_stay_in_the_table(
    converted: Path, tmp_path: Path, capsys: Capture
) -> None:
    again = tmp_path / converted.name
    again.write_bytes(converted.read_bytes())
    both, out = f"--networks=[{converted}, {again}]", tmp_path / "sweep"
    main(["sweep", both, "--data=digits", "--limit=16", "--steps=1", f"--out={out}"])
    assert len(st.Table.load(out).models) == 2
    assert "twice" in refused(
        ["sweep", f"--networks=[{again}, {again}, {again}]", "--data=digits"], capsys
    )


def test_direct_training_repeats_itself(tmp_path: Path) -> None:
    train = ["--data=digits", "--steps=1", "--epochs=1", "--limit=32", "--seed=3"]
    nets = []
    for name in ("a", "b"):
        main(["tune", "--network=test_resnet", *train, f"--out={tmp_path / name}.safetensors"])
        nets.append(st.load(tmp_path / f"{name}.safetensors").state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])


def test_the_demo_compares_every_way(tmp_path: Path, capsys: Capture) -> None:
    few = ["--steps=2", "--tune_epochs=1", "--direct_epochs=1"]
    main(["demo", f"--out={tmp_path}", *few])
    table = st.Table.load(tmp_path)
    assert len(table.models) >= 5
    assert table.row("ANN", 1).top1 > 98
    shown = capsys.readouterr().out
    assert all(name in shown for name in table.models)
    assert (tmp_path / "report.html").exists() and (tmp_path / "curves.png").exists()


def test_importing_one_room_costs_no_other() -> None:
    code = (
        "import sys, spiketune.convert, torch; "
        "print([m for m in ('timm', 'torchvision', 'sklearn', 'matplotlib') if m in sys.modules], "
        "torch.cuda.is_initialized())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] False"
