"""The doctor's picture: ratio, shares of error and spikes of every layer, top to bottom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiketune.snn import SpiketuneError
from spiketune.snn.files import whole_file

from .diagnosis import LOW, PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .diagnosis import Diagnosis

# Okabe & Ito 2008: told apart by colour-blind readers; what is inherited recedes in grey.
COLOURS = {
    "inherited": "#c9ced6", "clipping": "#d55e00", "quantisation": "#0072b2",
    "unevenness": "#e69f00",
}  # fmt: skip
INK, MUTED, GRID = "#1b1f24", "#5a6370", "#e3e6ea"
LABELLED = 80  # layers up to which each is named
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.titlelocation": "left", "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlepad": 10, "grid.color": GRID, "grid.linewidth": 0.7,
    "xtick.color": MUTED, "ytick.color": MUTED, "ytick.labelcolor": INK, "legend.frameon": False,
}  # fmt: skip


def draw(diagnosis: Diagnosis, path: Path) -> Path:
    """Draw the diagnosis and write a PNG, which appears whole or not at all.

    Raises:
        SpiketuneError: where matplotlib is missing, or the network has no neurons.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise SpiketuneError("a plot needs matplotlib; pip install matplotlib") from error
    if not diagnosis.layers:
        raise SpiketuneError("the network has no neuron layer to draw; see check()")
    with style.context(["default", _STYLE]):
        height = 1.7 + 0.24 * min(len(diagnosis.layers), 200)
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05, wspace=0.03)
        figure = Figure(figsize=(10, height), layout=layout)
        ratio, shares, spikes = figure.subplots(
            1, 3, sharey=True, gridspec_kw={"width_ratios": [3, 5, 2]}
        )
        _ratio(ratio, diagnosis)
        _shares(shares, diagnosis)
        _spikes(spikes, diagnosis)
        handles, names = shares.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=4, borderpad=0)
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", dpi=160, metadata={"Software": None})
    return path


def _ratio(axes: Axes, diagnosis: Diagnosis) -> None:
    places = range(len(diagnosis.layers))
    values = [layer.snr for layer in diagnosis.layers]
    axes.axvline(LOW, color=MUTED, linestyle="--", linewidth=1)
    axes.plot(values, places, color=INK, linewidth=1.2, marker="o", markersize=4)
    fall = diagnosis.first_fall
    if fall is not None:
        axes.plot(
            [values[fall]], [fall], marker="o", markersize=9, markerfacecolor="none",
            markeredgecolor=COLOURS["clipping"], markeredgewidth=1.6,
        )  # fmt: skip
    axes.set_title("Signal-to-error ratio")
    axes.set_xlabel("dB (ring: first fall)")
    axes.set_xlim(min(0.0, *values) - 1, max(*values, LOW) * 1.06 + 1)
    every = -(-len(values) // LABELLED)
    axes.set_yticks(list(places)[::every], [_name(diagnosis, n) for n in places][::every])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(axis="both")
    axes.tick_params(length=0)


def _shares(axes: Axes, diagnosis: Diagnosis) -> None:
    places = list(range(len(diagnosis.layers)))
    left = [0.0] * len(places)
    for part in PARTS:
        width = [100 * layer.share(part) for layer in diagnosis.layers]
        axes.barh(places, width, 0.72, left=left, color=COLOURS[part], label=part, linewidth=0)
        left = [start + more for start, more in zip(left, width, strict=True)]
    axes.set_title("What the error is made of")
    axes.set_xlabel("% of the energy of all four parts")
    axes.set_xlim(0, 100)
    axes.tick_params(length=0)


def _spikes(axes: Axes, diagnosis: Diagnosis) -> None:
    places = list(range(len(diagnosis.layers)))
    spikes = [layer.spikes for layer in diagnosis.layers]
    axes.barh(places, spikes, 0.72, color="#009e73", linewidth=0)
    axes.set_title("Spikes")
    axes.set_xlabel(f"a neuron, in {diagnosis.steps} steps")
    axes.grid(axis="x")
    axes.tick_params(length=0)


def _name(diagnosis: Diagnosis, place: int) -> str:
    # A name with dollar signs is a name, no formula.
    name = diagnosis.layers[place].path.replace("$", r"\$")
    return name if len(name) <= 40 else f"...{name[-37:]}"
