from __future__ import annotations

import pytest
import torch

from spiketune.cli import main


def test_info_says_how_neurons_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info"])
    shown = capsys.readouterr().out
    assert torch.__version__ in shown and "neurons on cuda" in shown
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    main(["info"])
    without = capsys.readouterr().out
    assert "step by step (no C compiler on the path; install gcc or clang" in without


@pytest.mark.parametrize(
    ("path", "words"), [("eager", "step by step, as was asked for"), ("compiled", "refused (no C")]
)
def test_info_says_what_a_forced_path_comes_to(
    path: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPIKETUNE_NEURONS", path)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    main(["info"])
    shown = capsys.readouterr().out
    assert f"{'neurons on cpu':<16} {words}" in shown
