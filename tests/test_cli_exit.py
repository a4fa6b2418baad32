from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

import spiketune as st
from spiketune.cli import main

Capture = pytest.CaptureFixture[str]


def test_exit_sets_and_saves_what_the_library_finds(
    file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "exit.json"
    args = [f"--network={file}", "--data=digits", "--limit=150", "--steps=12", f"--out={out}"]
    main(["exit", *args, "--tolerance=0.5"])
    snn = st.load(file)
    train, test = (
        DataLoader(st.load_data("digits", split, cfg=snn, limit=150), 100)
        for split in ("train", "test")
    )
    found = st.fit_exit(snn, train, 12, tolerance=0.5)
    assert st.EarlyExit.load(out) == found and found.steps == 12
    result = st.measure_exit(snn, test, found)
    shown = capsys.readouterr().out
    assert str(result).rpartition(",")[0] in shown and 1 < result.mean_steps < 12
    assert "to lose at most 0.5 points" in shown and str(out) in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tolerance=101"], "tolerance must be from 0 to 100 points"),
        (["--steps=0"], "steps must be a whole number"),
        (["--network=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_exit_refuses_in_one_sentence(
    options: list[str], message: str, file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "exit.json"
    args = ["--data=digits", "--limit=20", f"--out={out}"]
    if not options[0].startswith("--network"):
        args.append(f"--network={file}")
    with pytest.raises(SystemExit) as stop:
        main(["exit", *args, *options])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err and not out.exists()
