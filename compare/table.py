"""The table that ``sweep`` returns: look up, print, save, load."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from spiketune.snn import SpiketuneError, StorageError
from spiketune.snn.files import whole_file

from .energy import EnergyModel
from .result import Result

SCHEMA = "spiketune-table/1"
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "None": (type(None),),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """One row a model and step budget; ``str(table)`` is a table for the terminal.

    Attributes:
        rows: the results, model after model, budgets rising.
        budgets: the step budgets.
        reference: the model that others are compared with, None where there is none.
        energy: what one operation was taken to cost.
        device: where it ran.
        threads: threads that PyTorch used on the CPU.
        torch: version of PyTorch.

    Raises:
        SpiketuneError: unless every model has a row for every budget.

    Example:
        >>> from spiketune.compare import FP32
        >>> row = Result(model="snn", kind="binary", steps=4, images=100, top1=88.0, low=80.2,
        ...              high=93.0, accumulates=500.0, macs=20, energy_nj=0.542, seconds=1.0,
        ...              images_per_second=100.0)
        >>> table = Table(rows=(row,), budgets=(4,), reference=None, energy=FP32, device="cpu",
        ...               threads=1, torch="2.6.0")
        >>> table.row("snn", 4).top1
        88.0
    """

    rows: tuple[Result, ...]
    budgets: tuple[int, ...]
    reference: str | None
    energy: EnergyModel
    device: str
    threads: int
    torch: str

    def __post_init__(self) -> None:
        expected = [(model, budget) for model in self.models for budget in self.budgets]
        known = self.reference is None or self.reference in self.models
        if not self.rows or [(r.model, r.steps) for r in self.rows] != expected or not known:
            raise SpiketuneError(
                "a table needs one row for every model and budget, and its reference among the "
                "models; make it with sweep()"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names in the order given."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def of(self, model: str) -> tuple[Result, ...]:
        """Return one model's rows, budgets rising.

        Raises:
            SpiketuneError: on an unknown model.
        """
        rows = tuple(row for row in self.rows if row.model == model)
        if not rows:
            raise SpiketuneError(
                f"no model is called {model!r}; choose from {', '.join(self.models)}"
            )
        return rows

    def row(self, model: str, steps: int) -> Result:
        """Return the row of one model at one budget.

        Raises:
            SpiketuneError: on an unknown model, or a budget that was not asked for.
        """
        for row in self.of(model):
            if row.steps == steps:
                return row
        raise SpiketuneError(
            f"no row at {steps} steps; choose from {', '.join(map(str, self.budgets))}"
        )

    def best_budget(self, model: str, within: float = 1.0) -> int | None:
        """Return the smallest budget whose accuracy is within so many points of the reference.

        Args:
            model: whose budget.
            within: percentage points below the reference that still pass.

        Returns:
            The steps, or None where no budget comes that close.

        Raises:
            SpiketuneError: on an unknown model, or a table without a reference.
        """
        floor = self.floor(within)
        return next((row.steps for row in self.of(model) if row.top1 >= floor), None)

    def floor(self, within: float = 1.0) -> float:
        """Return the lowest accuracy that is within so many points of the reference.

        Raises:
            SpiketuneError: on a table without a reference.
        """
        if self.reference is None:
            raise SpiketuneError("the table has no reference; sweep together with the ANN")
        # Accuracies are ratios of whole numbers: the slack is for rounding only.
        return self.of(self.reference)[-1].top1 - within - 1e-9

    def __str__(self) -> str:
        from .text import terminal

        return terminal(self)

    def markdown(self, budgets: Sequence[int] | None = None) -> str:
        """Return the table in Markdown, at these budgets or at a few chosen ones.

        Raises:
            SpiketuneError: on a budget that was not asked for.
        """
        from .text import markdown

        return markdown(self, budgets)

    def save(self, folder: str | Path) -> Path:
        """Write ``table.csv``, ``table.json``, ``curves.png`` and ``report.html``.

        Each file appears whole or not at all. The numbers are written first, so that they are
        safe even where drawing fails.

        Args:
            folder: made where missing; files of these names in it are replaced.

        Returns:
            The folder.

        Raises:
            SpiketuneError: where matplotlib is missing; the numbers are written all the same.
        """
        from .page import page
        from .plot import png

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, Callable[[Table], bytes]] = {
            "table.json": _json,
            "table.csv": _csv,
            "curves.png": png,
            "report.html": lambda table: page(table).encode(),
        }
        for name, make in files.items():
            with whole_file(folder / name) as partial:
                partial.write_bytes(make(self))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Table:
        """Read the table that ``save`` wrote.

        Args:
            folder: the folder, or its ``table.json``.

        Raises:
            StorageError: if the file is missing, cut short, or of another schema.
        """
        path = Path(folder)
        path = path / "table.json" if path.is_dir() else path
        if not path.is_file():
            raise StorageError(f"{path}: no such file; give the folder that save() wrote")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StorageError(f"{path}: not whole JSON ({error}); sweep again") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise StorageError(
                f"{path}: schema {schema!r}, this version reads {SCHEMA!r}; sweep again"
            )
        rows = tuple(_checked(Result, row, path) for row in _list(data.get("rows"), path))
        rest = {key: value for key, value in data.items() if key not in ("schema", "rows")}
        energy = _checked(EnergyModel, rest.pop("energy", None), path)
        budgets = tuple(_list(rest.pop("budgets", None), path))
        shell = {**rest, "rows": rows, "budgets": budgets, "energy": energy}
        try:
            return _checked(cls, shell, path)
        except StorageError:
            raise
        except SpiketuneError as error:
            raise StorageError(f"{path}: {error}") from error


D = TypeVar("D", Result, EnergyModel, Table)


def _json(table: Table) -> bytes:
    data = {"schema": SCHEMA, **asdict(table)}
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table.rows)
    return text.getvalue().encode()


def _list(data: Any, path: Path) -> list[Any]:
    if not isinstance(data, list):
        raise StorageError(f"{path}: rows or budgets are missing; sweep again")
    return data


def _checked(kind: type[D], data: Any, path: Path) -> D:
    """Build a dataclass from data that must have exactly its fields, of their plain types."""
    known = {field.name: str(field.type) for field in fields(kind)}
    if not isinstance(data, dict) or set(data) != set(known):
        raise StorageError(f"{path}: not the fields of {kind.__name__}; sweep again")
    for name, annotation in known.items():
        allowed = sum((_KINDS.get(part, ()) for part in annotation.split(" | ")), ())
        if allowed and not isinstance(data[name], allowed):
            raise StorageError(
                f"{path}: {name} is {data[name]!r}, but must be {annotation}; sweep again"
            )
    return kind(**data)
