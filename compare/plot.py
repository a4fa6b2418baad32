"""Accuracy against steps and against energy, drawn for print and for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spiketune.snn import SpiketuneError

from .result import Result
from .text import key_budgets, si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .table import Table

# Colours that colour-blind readers tell apart (Okabe & Ito 2008), without the pale yellow.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^DvPX"
# Before each label while drawing: matplotlib leaves out labels that begin with an underscore.
_SERIES = "series "
INK, MUTED, GRID = "#1b1f24", "#5a6370", "#e3e6ea"
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.usetex": False,
    # Same table, same bytes: identifiers inside an SVG are random otherwise.
    "svg.hashsalt": "spiketune",
}


def png(table: Table) -> bytes:
    """Return the curves as a PNG on white.

    Raises:
        SpiketuneError: where matplotlib is missing.
    """
    with _styled():
        return _rendered(_figure(table), format="png", dpi=200, metadata={"Software": None})


def svg(table: Table) -> str:
    """Return the curves as an ``<svg>`` element on nothing, to stand inside a page.

    Raises:
        SpiketuneError: where matplotlib is missing.
    """
    with _styled():
        raw = _rendered(
            _figure(table), format="svg", transparent=True, metadata={"Date": None}
        ).decode()
    # The XML header has no place inside a page, the page sets the size, and metadata names hosts.
    element = re.sub(r"<metadata>.*?</metadata>", "", raw[raw.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)


@contextmanager
def _styled() -> Iterator[None]:
    """Draw in the default style plus ours, whatever the user's matplotlibrc says."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise SpiketuneError("curves need matplotlib; pip install matplotlib") from error
    with style.context(["default", _STYLE]):
        yield


def _rendered(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _figure(table: Table) -> Figure:
    # A figure of its own, not pyplot's: no window, no global list of figures.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
    figure = Figure(figsize=(9.2, 4.2), layout=layout)
    left, right = figure.subplots(1, 2, sharey=True)
    spiking = [model for model in table.models if table.row(model, table.budgets[0]).spiking]
    dense = [model for model in table.models if model not in spiking]
    for place, model in enumerate(dense):
        _ann_marks(left, right, table.of(model)[0], place)
    # Sixty markers in a row hide the line; those at the budgets of the printed table do not.
    marked = [table.budgets.index(budget) for budget in key_budgets(table.budgets)]
    for place, model in enumerate(spiking):
        rows = table.of(model)
        look = {**_look(place), "markevery": marked}
        _steps_curve(left, rows, look, 0.3 / max(2, len(spiking)))
        right.plot(
            [_cost(row) for row in rows], [r.top1 for r in rows], **look, label=_SERIES + model
        )
    _steps_axis(left, table)
    _cost_axis(right, table)
    _top1_limits(left, table.rows)
    _legend(figure, right)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Name the series above both panels, where the names cover nothing."""
    handles, names = axes.get_legend_handles_labels()
    names = [name.removeprefix(_SERIES) for name in names]
    # The figure holds some 125 characters of this size in a line; a handle takes about seven.
    columns = max(1, min(len(names), 125 // (7 + max(map(len, names)))))
    legend = figure.legend(
        handles, names, loc="outside upper left", ncols=columns, handlelength=2.2, borderpad=0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with dollar signs is a name


def _look(place: int) -> dict[str, Any]:
    """Return colour, marker and line of the series at ``place``; the first 42 all differ."""
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 4.5,
        "markeredgewidth": 0,
        "linewidth": 1.6,
        "linestyle": ("-", "--", ":")[place // len(SERIES) % 3],
    }


def _steps_curve(axes: Axes, rows: Sequence[Result], look: dict[str, Any], band: float) -> None:
    steps = [row.steps for row in rows]
    axes.fill_between(
        steps, [r.low for r in rows], [r.high for r in rows],
        color=look["color"], alpha=band, linewidth=0,
    )  # fmt: skip
    axes.plot(steps, [r.top1 for r in rows], **look)


def _ann_marks(left: Axes, right: Axes, row: Result, place: int) -> None:
    style: Any = ("--", ":", "-.")[place % 3]
    left.axhspan(row.low, row.high, color=MUTED, alpha=0.08, linewidth=0)
    left.axhline(row.top1, color=INK, linestyle=style, linewidth=1.2, zorder=3)
    right.axhline(row.top1, color=INK, linestyle=style, linewidth=0.9, alpha=0.5)
    right.plot(
        [_cost(row)], [row.top1], color=INK, linestyle=style, linewidth=1.2,
        marker="*", markersize=11, markeredgewidth=0, label=f"{_SERIES}{row.model} (not spiking)",
    )  # fmt: skip


def _cost(row: Result) -> float:
    return row.energy_nj if row.energy_ratio is None else row.energy_ratio


def _steps_axis(axes: Axes, table: Table) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    first, last = table.budgets[0], table.budgets[-1]
    powers = [2**k for k in range(20) if first <= 2**k <= last]
    axes.set_xscale("log", base=2)
    axes.set_xlim(first / 1.12, last * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(powers if len(powers) > 1 else list(table.budgets)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("steps")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("Accuracy against steps")


def _cost_axis(axes: Axes, table: Table) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    relative = table.reference is not None
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    if relative:
        axes.axvline(1, color=INK, linewidth=0.9, alpha=0.5)
        axes.xaxis.set_major_formatter(lambda value, _: _times(value))
        axes.set_xlabel(f"estimated energy an image, {table.reference} = 1", parse_math=False)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: si(value * 1e-9, "J"))
        axes.set_xlabel("estimated energy an image")
    axes.set_title("Accuracy against energy")


def _times(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def _top1_limits(axes: Axes, rows: Sequence[Result]) -> None:
    """Show what is worth seeing: all intervals, with the room that their spread needs."""
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    room = max(0.04 * (high - low), 0.5)
    axes.set_ylim(max(low - room, -1), min(high + room, 101))
