"""The table as text: columns, numbers and which budgets to show."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from spiketune.snn import SpiketuneError

from .result import Result

if TYPE_CHECKING:
    from .table import Table

MANY = 8
NONE = "-"
WIDEST = 60


@dataclass(frozen=True)
class Column:
    """A heading and what stands under it."""

    title: str
    cell: Callable[[Result], str]
    words: bool = False


def si(value: float, unit: str = "") -> str:
    """Return a number with three digits and a prefix.

    Example:
        >>> si(0), si(17088), si(2.5e9), si(0.012, "J")
        ('0', '17.1 k', '2.5 G', '12 mJ')
    """
    scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"),
              (1e-6, "µ"), (1e-9, "n"))  # fmt: skip
    # 999.6 k would round to 1000 k: move on a prefix where the three digits carry over.
    scale, prefix = next(((s, p) for s, p in scales if value >= 0.9995 * s), (1e-12, "p"))
    scale, prefix = (1.0, "") if value == 0 else (scale, prefix)
    return f"{value / scale:.3g} {prefix}{unit}".strip()


def plain(value: float) -> str:
    """Return a number with three digits, or all before the point where those are more.

    Example:
        >>> plain(14912.3), plain(0.48812)
        ('14,912', '0.488')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine(table: Table) -> str:
    """Say where a table was made."""
    threads = f"{table.threads} thread" + "s" * (table.threads != 1)
    return f"{table.device}, {threads}, torch {table.torch}"


def maybe(value: float | None, form: Callable[[float], str]) -> str:
    """Return the number formed, or a dash where there is none."""
    return NONE if value is None else form(value)


COLUMNS = (
    Column("model", lambda r: r.model, words=True),
    Column("kind", lambda r: r.kind, words=True),
    Column("steps", lambda r: str(r.steps) if r.spiking else NONE),
    Column("top-1 %", lambda r: f"{r.top1:.2f}"),
    Column("95 % interval", lambda r: f"{r.low:.1f} to {r.high:.1f}"),
    Column("agree %", lambda r: maybe(r.agreement, "{:.1f}".format)),
    Column("spikes/neuron", lambda r: maybe(r.spikes_per_neuron, "{:.2f}".format)),
    Column("ACs", lambda r: si(r.accumulates)),
    Column("MACs", lambda r: si(r.macs)),
    Column("energy est.", lambda r: si(r.energy_nj * 1e-9, "J")),
    Column("vs ref.", lambda r: maybe(r.energy_ratio, "{:.2f}x".format)),
)
MAKING = (
    Column("model", lambda r: r.model, words=True),
    Column("calibration images", lambda r: maybe(r.calibration_images, "{:,g}".format)),
    Column("training images", lambda r: maybe(r.training_images, "{:,g}".format)),
    Column("epochs", lambda r: maybe(r.epochs, "{:,g}".format)),
    Column("tuned at", lambda r: maybe(r.tuned_steps, "T = {:g}".format)),
    Column("time to make", lambda r: maybe(r.preparation_seconds, lambda s: f"{plain(s)} s")),
    Column("test images/s", lambda r: plain(r.images_per_second)),
    Column("peak memory", lambda r: maybe(r.peak_memory_mb, lambda m: f"{plain(m)} MB")),
    Column("made by", lambda r: r.method or NONE, words=True),
)


def key_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """Return all budgets where they are few, else the powers of two and the last.

    Example:
        >>> key_budgets(range(1, 21))
        (1, 2, 4, 8, 16, 20)
    """
    if len(budgets) <= MANY:
        return tuple(budgets)
    powers = [b for b in budgets if b & (b - 1) == 0]
    if len(powers) < 3:  # as from range(10, 200, 10): every so many then
        powers = list(budgets[:: -(-len(budgets) // MANY)])
    return tuple(dict.fromkeys([*powers, budgets[-1]]))


def selected(table: Table, budgets: Sequence[int] | None = None) -> list[Result]:
    """Return the rows at some budgets; what does not spike only once."""
    wanted = key_budgets(table.budgets) if budgets is None else tuple(budgets)
    unknown = [budget for budget in wanted if budget not in table.budgets]
    if unknown:
        raise SpiketuneError(
            f"no rows at {unknown[0]} steps; choose from {', '.join(map(str, table.budgets))}"
        )
    rows: list[Result] = []
    for model in table.models:
        mine = table.of(model)
        rows += [r for r in mine if r.steps in wanted] if mine[0].spiking else mine[:1]
    return rows


def making(table: Table) -> tuple[list[Column], list[Result]]:
    """Return one row a model on how it was made and ran, and the columns that tell something."""
    last = [table.of(model)[-1] for model in table.models]
    return [c for c in MAKING if c.words or any(c.cell(row) != NONE for row in last)], last


def terminal(table: Table) -> str:
    """Return aligned columns, how each model was made, and what the energy estimate is."""
    images = table.rows[0].images
    foot = (
        f"{images:,} images; {machine(table)}\n"
        f"operations and energy an image; energy is an estimate ({table.energy}), "
        "no measurement"
    )
    return "\n\n".join([_grid(COLUMNS, selected(table)), _grid(*making(table)), foot])


def _grid(columns: Sequence[Column], rows: Sequence[Result]) -> str:
    cells = [[column.title for column in columns]]
    for row in rows:
        wrapped = [_wrapped(column.cell(row)) for column in columns]
        cells += map(list, zip_longest(*wrapped, fillvalue=""))
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if column.words else f"{cell:>{width}}"
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def _wrapped(cell: str) -> list[str]:
    """Return the lines of a cell; only long words, a method or a name, take more than one."""
    if len(cell) <= WIDEST:
        return [cell]
    return textwrap.wrap(cell, WIDEST, break_on_hyphens=False, subsequent_indent="  ")


def markdown(table: Table, budgets: Sequence[int] | None = None) -> str:
    """Return a Markdown table with a line on images and energy under it."""
    head = "| " + " | ".join(column.title for column in COLUMNS) + " |"
    rule = "|" + "|".join(" --- " if column.words else " ---: " for column in COLUMNS) + "|"
    lines = [
        "| " + " | ".join(column.cell(row).replace("|", "\\|") for column in COLUMNS) + " |"
        for row in selected(table, budgets)
    ]
    foot = f"{table.rows[0].images:,} images; energy is an estimate ({table.energy})."
    return "\n".join([head, rule, *lines, "", foot])
