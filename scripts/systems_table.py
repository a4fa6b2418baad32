"""The table of all systems, out of the rows that their experiments wrote.

    python scripts/systems_table.py

Reads ``docs/results/systems/*.csv`` and writes ``docs/results/systems/README.md``: for every
experiment the paper's figure, what we set out to reach, the best and the last epoch, and what that
took. An experiment without a file is listed as not measured.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import auto_cli


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        name: of its file.
        what: rule, network, data.
        paper: percent, with what differs.
        goal: percent.
        command: behind ``python scripts/``.
    """

    name: str
    what: str
    paper: str
    goal: str
    command: str


ROWS = (
    Row("stidi_mnist_real", "STiDi-BP, 16C5-P2-32C5-P2, MNIST", "99.2", "98.5",
        "stidi.py --images mnist --epochs 12"),
    Row("stidi_mnist_binary", "the same, binary weights", "98.6", "1.0 below",
        "stidi.py --images mnist --weights binary --epochs 6 --rate 5e-3"),
    Row("stidi_fashion-mnist_real", "the same, Fashion-MNIST with its negative", "92.8", "89.5",
        "stidi.py --images fashion-mnist --epochs 15"),
    Row("stidi_fashion-mnist_real_still_on", "on from there, no image mirrored", "92.8", "89.5",
        "stidi.py --images fashion-mnist --still true --epochs 3 --rate 1e-3 --go_on "
        "runs/systems/stidi_fashion-mnist_real.safetensors"),
    Row("stidi_fashion-mnist_binary", "binary weights, from the first", "92.0", "1.5 below",
        "stidi.py --images fashion-mnist --weights binary --epochs 30"),
    Row("stidi_fashion-mnist_binary_on", "on from there", "92.0", "1.5 below",
        "stidi.py --images fashion-mnist --weights binary --epochs 12 --rate 1.5e-3 --go_on "
        "runs/systems/stidi_fashion-mnist_binary.safetensors"),
    Row("stidi_fashion-mnist_binary_scales_on", "on from there, a scale a neuron", "92.0",
        "1.5 below", "stidi.py --images fashion-mnist --weights binary --scales neuron "
        "--epochs 12 --rate 1.5e-3 --go_on "
        "runs/systems/stidi_fashion-mnist_binary_on.safetensors"),
    Row("stidi_fashion-mnist_binary_scales_still_on", "on from there, no image mirrored", "92.0",
        "1.5 below", "stidi.py --images fashion-mnist --weights binary --scales neuron "
        "--still true --epochs 8 --rate 1e-3 --go_on "
        "runs/systems/stidi_fashion-mnist_binary_scales_on.safetensors"),
    Row("stidi_fashion-mnist_binary_scales_still_on_on", "on from there", "92.0", "1.5 below",
        "stidi.py --images fashion-mnist --weights binary --scales neuron --still true "
        "--epochs 5 --rate 1e-3 --go_on "
        "runs/systems/stidi_fashion-mnist_binary_scales_still_on.safetensors"),
    Row("strsbp_fashion", "ST-RSBP, 400-R400 (grid), T = 30, Fashion-MNIST", "90.13", "88.5",
        "strsbp.py --task fashion --epochs 14"),
    Row("strsbp_mnist", "ST-RSBP, 15C5-P2-40C5-P2-300, T = 20, MNIST", "99.62", "98.8",
        "strsbp.py --task mnist --steps 20 --epochs 2"),
    Row("hm2bp_mnist", "HM2-BP, the same network", "99.49", "98.8",
        "strsbp.py --task mnist --rule hm2bp --steps 20 --epochs 2"),
    Row("tssl_tssl", "TSSL-BP, 32C5-P2-64C5-P2-1024, T = 5, Fashion-MNIST", "92.83", "91.0",
        "tssl.py"),
    Row("tssl_tssl_on", "the same network, on from there at a lower rate", "92.83", "91.0",
        "tssl.py --epochs 4 --rate 5e-4 --go_on runs/systems/tssl_tssl.safetensors"),
    Row("slayer_mnist", "SLAYER, 12C5-P2-64C5-P2, T = 20, MNIST", "99.36", "98.8",
        "slayer.py --epochs 4"),
    Row("slayer_saccades", "SLAYER, saccade events of MNIST, T = 30", "99.20 (N-MNIST)", "98",
        "slayer.py --data saccades --epochs 2"),
    Row("slayer_saccades_delays", "the same, delays learned", "99.20 (N-MNIST)", "98",
        "slayer.py --data saccades --delays true --epochs 2"),
    Row("lee_lee", "Lee 2016, 800 neurons, T = 30, MNIST", "98.71", "-", "lee.py --epochs 5"),
    Row("soft_lif", "Soft LIF, rates, 32C5-P2-64C5-P2-256, MNIST", "99.1", "98.8",
        "soft_lif.py --epochs 4"),
)  # fmt: skip
HEAD = """# Experiments of the other systems

Made by `python scripts/systems_table.py` out of the files here, a row an epoch each. One run a row,
on one CPU thread of two cores that other work shared: seconds are of the clock. Epochs are those
that the machine could afford; a run that was stopped has fewer than its command says. The best
epoch is chosen on the test images and says what was passed through, the last one what one would
have. See also `planted_shift.md`, `spike_trains.md`, and the tables of latencies in the folders.

"""
COLUMNS = (
    "experiment", "paper %", "goal %", "best % (epoch)", "last %", "epochs", "seconds", "device",
    "seed", "`python scripts/`",
)  # fmt: skip


def line(row: Row, folder: Path) -> str:
    """Return a row of the table."""
    start = f"| {row.what} | {row.paper} | {row.goal} | "
    file = folder / f"{row.name}.csv"
    if not file.exists():
        return f"{start}not measured | | | | | | `{row.command}` |"
    with file.open(newline="") as lines:
        epochs = list(csv.DictReader(lines))
    best = max(epochs, key=lambda epoch: float(epoch["test_accuracy"]))
    last, seconds = epochs[-1], sum(float(epoch["seconds"]) for epoch in epochs)
    found = (
        f"{100 * float(best['test_accuracy']):.2f} ({best['epoch']})",
        f"{100 * float(last['test_accuracy']):.2f}", last["epoch"], f"{seconds:.0f}",
        last["device"], last["seed"], f"`{row.command}`",
    )  # fmt: skip
    return start + " | ".join(found) + " |"


def main(folder: Path = Path("docs/results/systems")) -> None:
    """Write the table.

    Args:
        folder: with the files of the experiments.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|" + 6 * "---:|" + "---|---:|---|"]
    lines += [line(row, folder) for row in ROWS]
    (folder / "README.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
