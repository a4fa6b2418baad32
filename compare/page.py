"""The report: one HTML file that needs nothing else, from the disk or from the net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from .energy import CAVEATS
from .page_style import STYLE
from .plot import GRID, INK, MUTED, SERIES, svg
from .result import Result
from .text import COLUMNS, Column, key_budgets, machine, making, selected

if TYPE_CHECKING:
    from .table import Table

WITHIN = 1.0


def page(table: Table) -> str:
    """Return the report as HTML.

    Raises:
        SpiketuneError: where matplotlib is missing.
    """
    parts = [
        "<h1>Accuracy against step budget</h1>",
        f'<p class="lead">{escape(_lead(table))}</p>',
        f'<div class="found">{_list(_findings(table))}</div>',
        f"<figure>{_themed(svg(table))}<figcaption>{escape(_caption(table))}</figcaption></figure>",
        "<h2>Top-1 accuracy, %</h2>",
        _matrix(table),
        "<h2>Operations and energy an image</h2>",
        _grid(COLUMNS, selected(table)),
        _all_budgets(table),
        "<h2>How each model was made, and how it ran</h2>",
        _grid(*making(table)),
        "<h2>How to read this</h2>",
        _list([*_reading(table), *CAVEATS]),
        f"<footer>Made by spiketune from table.json, {escape(machine(table))}.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Accuracy against step budget</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _lead(table: Table) -> str:
    spiking = sum(table.of(model)[0].spiking for model in table.models)
    first, last = table.budgets[0], table.budgets[-1]
    budgets = _steps(last) if first == last else f"{first} to {_steps(last)}"
    return (
        f"{len(table.models)} models, {spiking} of them spiking, on the same "
        f"{table.rows[0].images:,} test images, at {budgets}."
    )


def _findings(table: Table) -> list[str]:
    """Say for each model the smallest budget that comes near the reference, or its best."""
    found = []
    for model in table.models:
        rows = table.of(model)
        if model == table.reference:
            found.append(f"{model}, the reference, answers {rows[-1].top1:.2f} % right.")
        elif not rows[0].spiking:
            found.append(f"{model} answers {rows[0].top1:.2f} % right.")
        else:
            found.append(_finding(table, model, rows))
    return found


def _finding(table: Table, model: str, rows: Sequence[Result]) -> str:
    steps = table.best_budget(model, WITHIN) if table.reference else None
    if steps is None:
        best = max(rows, key=lambda row: row.top1)
        short = f", never within {WITHIN:g} point of {table.reference}" if table.reference else ""
        return f"{model} reaches {best.top1:.2f} % at {_steps(best.steps)}{short}."
    row = table.row(model, steps)
    energy = f" and {row.energy_ratio:.2f} of its energy (estimate)" if row.energy_ratio else ""
    return (
        f"{model} is within {WITHIN:g} point of {table.reference} at {_steps(steps)}: "
        f"{row.top1:.2f} %, {row.spikes_per_neuron or 0:.2f} spikes a neuron{energy}."
    )


def _steps(count: int) -> str:
    return f"{count} step" + "s" * (count != 1)


def _caption(table: Table) -> str:
    marks = ", ".join(map(str, key_budgets(table.budgets)))
    return (
        f"Markers stand at {marks} steps in both panels. Bands are 95 % intervals "
        "(Wilson). Energy is an estimate from operation counts, not a measurement."
    )


def _reading(table: Table) -> list[str]:
    notes = [
        "Accuracy at T steps is that of the mean output of the first T steps; one simulation "
        "gives every budget.",
        "ACs are accumulates, one for each weight that a spike meets; MACs are "
        "multiply-accumulates of what spikes do not feed. Both are for one image and budget.",
        "Time is wall time inside the model at the largest budget, spike counting included, "
        "loading left out. Peak memory is the growth during it, of the largest batch: activations "
        "and membranes, no weights, no images.",
    ]
    if table.reference:
        notes.insert(1, f"Agree is the share of images answered as {table.reference} answers them.")
    return notes


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"


def _matrix(table: Table) -> str:
    """One line a model, one column a budget; what is near the reference is tinted."""
    budgets = key_budgets(table.budgets)
    floor = table.floor(WITHIN) if table.reference else None
    head = "".join(f"<th>T = {budget}</th>" for budget in budgets)
    lines = []
    for model in table.models:
        cells = ""
        for row in (table.row(model, budget) for budget in budgets):
            near = floor is not None and row.spiking and row.top1 >= floor
            cells += f"<td{' class=near' if near else ''}>{row.top1:.2f}</td>"
        lines.append(f'<tr><td class="words">{escape(model)}</td>{cells}</tr>')
    note = f"<p class=lead>Tinted: within {WITHIN:g} point of {escape(table.reference or '')}.</p>"
    head = f'<tr><th class="words">model</th>{head}</tr>'
    return (
        f'<div class="wide"><table class="matrix"><thead>{head}</thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>" + (note if floor is not None else "")
    )


def _all_budgets(table: Table) -> str:
    if len(key_budgets(table.budgets)) == len(table.budgets):
        return ""
    rows = selected(table, table.budgets)
    return (
        f"<details><summary>All {len(table.budgets)} budgets</summary>"
        f"{_grid(COLUMNS, rows)}</details>"
    )


def _grid(columns: Sequence[Column], rows: Sequence[Result]) -> str:
    def line(tag: str, cell: Callable[[Column], str], first: bool = False) -> str:
        cells = "".join(
            f"<{tag}{' class=words' if c.words else ''}>{escape(cell(c))}</{tag}>" for c in columns
        )
        return f"<tr{' class=first' if first else ''}>{cells}</tr>"

    head = line("th", lambda c: c.title)
    body, before = [], ""
    for row in rows:
        body.append(line("td", lambda c, row=row: c.cell(row), row.model != before))  # type: ignore[misc]
        before = row.model
    return (
        f'<div class="wide"><table><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _themed(drawing: str) -> str:
    """Let the page choose the drawing's colours, so that it is legible in the dark as well."""
    colours = {INK: "--ink", MUTED: "--muted", GRID: "--grid"}
    colours |= {colour: f"--s{place}" for place, colour in enumerate(SERIES)}
    for colour, variable in colours.items():
        drawing = drawing.replace(colour, f"var({variable})")
    return drawing
