from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spiketune.cli import main
from spiketune.zoo import DataError, load_data

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SYSTEMS = ROOT / "docs/systems"
PAGES = sorted(SYSTEMS.glob("*.md"))


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_system_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if "mnist" in code:
        try:
            load_data("mnist", "test", limit=1)
        except DataError as error:
            pytest.skip(str(error))  # digits are bundled, MNIST is not
    exec(compile(code, page.name, "exec"), {})


def test_the_index_names_every_page_recipe_and_script_that_there_is() -> None:
    index = (SYSTEMS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w+\.md)\)", index)) == {page.name for page in PAGES} - {"README.md"}
    recipes = {path.name for path in (ROOT / "recipes").iterdir()}
    named = set(re.findall(r"`((?:mnist|fashion|saccades)_\w+)`", index))
    assert named == {name for name in recipes if re.match("mnist|fashion|saccades", name)}
    assert all((ROOT / script).is_file() for script in re.findall(r"scripts/\w+\.py", index))
