from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spiketune.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 14
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs/first/report.html").exists()
    assert (tmp_path / "runs/first/digits.safetensors").exists()


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.split("## The command line")[1]
    (block,) = re.findall(r"```\n(.*?)```", section, re.DOTALL)[:1]
    commands = [shlex.split(line) for line in block.strip().splitlines()]
    assert all(command[0] == "spiketune" for command in commands)
    for command in commands:
        main(command[1:])
    assert (tmp_path / "runs/sweep/report.html").exists()
