"""The house's rules: who imports whom, what is packaged, what is documented."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
ROOMS = ("snn", "convert", "finetune", "compare", "zoo")
each_room = pytest.mark.parametrize("room", ROOMS)


def sources(room: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield absolute names of all modules imported, inside functions too."""
    package = ("spiketune", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@each_room
def test_a_room_imports_snn_and_itself_only(room: str) -> None:
    allowed = {"snn", room}
    for path, tree in sources(room):
        for name in imports(path, tree):
            first, *rest = name.split(".")
            assert first not in ROOMS, f"{path}: {name} works in this checkout only"
            if first == "spiketune" and rest:
                assert rest[0] in allowed, f"{path}: {name}"


def test_snn_needs_torch_only() -> None:
    standard = sys.stdlib_module_names
    for path, tree in sources("snn"):
        found = {name.split(".")[0] for name in imports(path, tree)}
        assert found - standard <= {"spiketune", "torch", "safetensors"}, path


@each_room
def test_a_room_neither_prints_nor_reads_code(room: str) -> None:
    for path, tree in sources(room):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "eval", "exec", "__import__"), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path


@each_room
def test_files_and_functions_stay_small(room: str) -> None:
    for path, tree in sources(room):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = [n for n in node.body if not isinstance(n, ast.Expr)]
                length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert length <= 40, f"{path}: {node.name}"


def public(room: str) -> list[str]:
    names: list[str] = importlib.import_module(f"spiketune.{room}").__all__
    return names


@each_room
def test_all_is_sorted_and_true(room: str) -> None:
    module = importlib.import_module(f"spiketune.{room}")
    assert len(set(public(room))) == len(public(room))
    assert all(hasattr(module, name) for name in public(room))


@pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room in ROOMS for name in public(room)]
)
def test_a_public_name_has_a_docstring_with_an_example(room: str, name: str) -> None:
    found = getattr(importlib.import_module(f"spiketune.{room}"), name)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return  # a type alias or a constant
    assert str(found.__module__).startswith("spiketune.")
    text = inspect.getdoc(found) or ""
    assert "Example:" in text and ">>>" in text


def test_the_top_level_offers_what_all_lists() -> None:
    top = importlib.import_module("spiketune")
    assert sorted(top.__all__) == sorted(set(top.__all__))
    for name in top.__all__:
        assert any(name in public(room) for room in ROOMS), name
        assert hasattr(top, name)


def modules(room: str) -> list[str]:
    package = importlib.import_module(f"spiketune.{room}")
    found = pkgutil.walk_packages(package.__path__, f"spiketune.{room}.")
    return [f"spiketune.{room}", *(info.name for info in found)]


@pytest.mark.parametrize("name", ["spiketune", *(m for room in ROOMS for m in modules(room))])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
            torch.manual_seed(0)  # weights drawn by chance may leave a tiny layer dead
            runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def tracked() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_the_wheel_holds_what_git_holds(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    copy, wheels = tmp_path / "copy", tmp_path / "wheels"
    for name in tracked():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    wheels.mkdir()
    built = subprocess.run(
        [sys.executable, "-c", "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])",
         str(wheels)],
        cwd=copy, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"spiketune/{name}" for name in tracked() if name.split("/")[0] in ROOMS}
    expected |= {
        name
        for name in tracked()
        if name.startswith("spiketune/") and not (ROOT / name).is_symlink()
    }
    assert found == expected


def test_links_lead_to_the_rooms() -> None:
    for room in ROOMS:
        link = ROOT / "spiketune" / room
        assert (link / "__init__.py").read_bytes() == (ROOT / room / "__init__.py").read_bytes()
        if link.is_symlink():
            assert link.readlink() == Path("..") / room


def test_importing_is_quiet_and_changes_no_global_setting() -> None:
    code = (
        "import logging, torch\n"
        "before = (torch.get_rng_state().sum(), torch.get_default_dtype(), "
        "torch.is_grad_enabled(), torch.get_num_threads(), list(logging.root.handlers))\n"
        "import spiketune\n"
        "after = (torch.get_rng_state().sum(), torch.get_default_dtype(), "
        "torch.is_grad_enabled(), torch.get_num_threads(), list(logging.root.handlers))\n"
        "assert before == after, (before, after)\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
