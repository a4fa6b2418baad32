"""Looking up, printing, saving and loading."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spiketune.compare import Table
from spiketune.compare.text import key_budgets, si
from spiketune.snn import SpiketuneError, StorageError

MakeTable = Callable[..., Table]


@pytest.fixture(scope="module")
def written(make_table: MakeTable, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``table.json`` of a small table holds."""
    folder = make_table(snn=[33]).save(tmp_path_factory.mktemp("written"))
    return (folder / "table.json").read_text()


def test_best_budget_is_the_first_that_comes_near(make_table: MakeTable) -> None:
    table = make_table(snn=[50, 88, 89, 88, 90], late=[0, 0, 0, 0, 10])
    assert table.best_budget("snn") == 3
    assert table.best_budget("snn", within=2) == 2
    assert table.best_budget("snn", within=0) == 5
    assert table.best_budget("late") is None
    assert table.best_budget("ann") == 1
    assert table.floor(2) == pytest.approx(88)
    with pytest.raises(SpiketuneError, match="no reference; sweep together with the ANN"):
        replace(table, reference=None).best_budget("snn")
    with pytest.raises(SpiketuneError, match="no model is called 'x'; choose from ann, snn, late"):
        table.best_budget("x")


def test_terminal_table_is_aligned_and_short(make_table: MakeTable) -> None:
    text = str(make_table(snn=list(range(40, 72))))
    body = text.split("\n\n")[0].splitlines()
    assert [line.split()[2] for line in body[2:]] == ["-", "1", "2", "4", "8", "16", "32"]
    assert len({len(line) for line in body[1:]}) == 1
    assert "energy is an estimate (fp32: 4.6 pJ a MAC, 0.9 pJ an AC), no measurement" in text


def test_a_long_method_is_wrapped_in_the_terminal_only(
    make_table: MakeTable, tmp_path: Path
) -> None:
    method = "Ternary(steps=4, threshold=MSE()) + SurrogateBPTT(T=4, 2 epochs, lr 0.001) " * 2
    table = make_table(snn=[80, 90])
    rows = tuple(replace(row, method=method.strip() if row.spiking else None) for row in table.rows)
    table = replace(table, rows=rows)
    making = str(table).split("\n\n")[1].splitlines()
    start = making[0].index("made by")
    assert max(map(len, making)) <= start + 60 and len(making) == 2 + 1 + 3
    assert " ".join(" ".join(line[start:] for line in making[3:]).split()) == method.strip()
    assert [line.split()[0] for line in making[2:4]] == ["ann", "snn"]
    assert not any(line[:start].strip() for line in making[4:])
    folder = table.save(tmp_path)
    assert method.strip() in (folder / "report.html").read_text()
    assert method.strip() in (folder / "table.csv").read_text()


def test_budgets_shown() -> None:
    assert key_budgets((3, 5, 7)) == (3, 5, 7)
    assert key_budgets(range(1, 33)) == (1, 2, 4, 8, 16, 32)
    assert key_budgets(range(1, 101)) == (1, 2, 4, 8, 16, 32, 64, 100)
    tens = key_budgets(range(10, 210, 10))
    assert tens[0] == 10 and tens[-1] == 200 and 4 < len(tens) < 9


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (999, "999"), (999.4, "999"), (999.6, "1 k"), (1e3, "1 k"),
     (12345, "12.3 k"), (4.089e9, "4.09 G"), (0.5, "500 m"), (2e-13, "0.2 p")],
)  # fmt: skip
def test_prefixes(value: float, text: str) -> None:
    assert si(value) == text


def test_markdown_has_a_line_a_row_and_escapes_bars(make_table: MakeTable) -> None:
    text = make_table(ann="a|b", snn=[80, 90, 91]).markdown([1, 3])
    lines = text.splitlines()
    assert lines[2].startswith("| a\\|b | ann | - | 90.00 |")
    assert [line.split(" | ")[2] for line in lines[3:5]] == ["1", "3"]
    with pytest.raises(SpiketuneError, match="no rows at 5 steps; choose from 1, 2, 3"):
        make_table(snn=[1, 2, 3]).markdown([5])


def test_save_and_load_round_trip(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table(snn=[33, 80, 91])
    folder = table.save(tmp_path / "new" / "run")
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png", "report.html", "table.csv", "table.json",
    ]  # fmt: skip
    assert Table.load(folder) == table == Table.load(folder / "table.json")
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[3]["top1"] == "33.0" and rows[0]["spikes_per_neuron"] == ""
    assert float(rows[4]["low"]) == table.row("snn", 2).low


def test_saving_the_same_table_gives_the_same_bytes(make_table: MakeTable, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_table(snn=[33, 80, 91]).save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_crash_while_drawing_leaves_the_numbers_and_no_half_file(
    make_table: MakeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    table = make_table(snn=[33, 80, 91])
    with pytest.raises(SpiketuneError, match="pip install matplotlib"):
        table.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.json"]
    assert Table.load(tmp_path) == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"schema": "other"}, "schema 'other', this version reads"),
        (lambda d: [d], "schema None"),
        (lambda d: {k: v for k, v in d.items() if k != "rows"}, "rows or budgets are missing"),
        (lambda d: d | {"extra": 1}, "not the fields of Table"),
        (lambda d: d | {"rows": [{"model": "a"}]}, "not the fields of Result"),
        (lambda d: d | {"rows": [d["rows"][0] | {"top1": "9"}]}, "top1 is '9', but must be float"),
        (lambda d: d | {"budgets": [1, "2"]}, "one row for every"),
        (lambda d: d | {"rows": []}, "one row for every"),
        (lambda d: d | {"energy": None}, "not the fields of EnergyModel"),
    ],
)
def test_load_refuses_other_files(
    change: Callable[[object], object], message: str, written: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(change(json.loads(written))))
    with pytest.raises(StorageError, match=message):
        Table.load(path)


def test_load_refuses_missing_and_cut_files(written: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        Table.load(tmp_path)
    path = tmp_path / "table.json"
    path.write_text(written[:-100])
    with pytest.raises(StorageError, match="not whole JSON"):
        Table.load(path)
