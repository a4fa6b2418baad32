"""Early exit on Fashion-MNIST: accuracy, steps and time against all images running for T steps.

    python scripts/early_exit.py --data /path/to/data

The network is the resnet10t of ``fashion_mnist.py``, trained here if its weights are not there,
converted with ``Ternary(steps=16)``. Confidences are set on training images, 1,024 of which also
balanced the thresholds, and judged on all test images. Rows of other stopping rules, of other
tolerances and of fewer training images are read off the same two simulations; the first row is also
run, beside all images running to the end, batch by batch in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path

import torch
from bench_timing import device_name
from jsonargparse import auto_cli
from torch import Tensor
from torch.utils.data import DataLoader
from train_anns import train

import spiketune as st
from spiketune.compare import ExitCurve, ExitResult
from spiketune.snn.early_exit import confidence

Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        data: folder with the data set; by default the usual places.
        ann: weights of the ANN, as ``fashion_mnist.py`` leaves them; trained where missing.
        results: file for the tables.
        steps: ``T``.
        images: training images that the confidence is set on.
        limit: at most so many test images.
        batch: images at once.
        threads: of torch.
        device: cpu or cuda.
    """

    data: str | None = None
    ann: Path = Path("runs/fashion/ann.safetensors")
    results: Path = Path("docs/results/early_exit.md")
    steps: int = 16
    images: int = 10_000
    limit: int | None = None
    batch: int = 250
    threads: int = 1
    device: str = "cpu"


def margin(outputs: Tensor, curve: Tensor) -> Tensor:
    """Return by how much the mean output of the best class exceeds that of the second."""
    best = curve.topk(2).values
    return best[..., 0] - best[..., 1]


def softmax(outputs: Tensor, curve: Tensor) -> Tensor:
    """Return the largest softmax probability of the mean outputs."""
    return curve.softmax(-1).amax(-1)


def patience(outputs: Tensor, curve: Tensor) -> Tensor:
    """Return for how many steps the answer has been the same."""
    chosen = curve.argmax(-1)
    same = [torch.ones_like(chosen[0])]
    for before, now in pairwise(chosen):
        same.append(torch.where(now == before, same[-1] + 1, 1))
    return torch.stack(same).float()


RULES: dict[str, Rule] = {
    "lead of the sums": confidence,
    "margin of the mean": margin,
    "softmax of the mean": softmax,
    "steps with the same answer": patience,
}


def network(settings: Settings) -> st.SpikingNetwork:
    """Return the converted network."""
    if not settings.ann.exists():
        train("resnet10t", settings.ann, settings.data, batch=128, epochs=10)
    ann = st.load_ann("resnet10t", checkpoint=settings.ann, num_classes=10, in_chans=1)
    # It was trained on images as the data set itself normalises them, at their own size.
    ann.pretrained_cfg = {"input_size": (1, 28, 28)}
    images = st.load_data("fashion-mnist", "train", settings.data, limit=1024).tensors[0]
    return st.to_snn(ann, images, st.Ternary(steps=settings.steps)).to(settings.device)


@torch.no_grad()
def curves(
    snn: st.SpikingNetwork, loader: DataLoader[tuple[Tensor, ...]], steps: int
) -> dict[str, ExitCurve]:
    """Simulate images to the end and return what each rule thinks of their answers."""
    device = next(snn.parameters()).device
    sure: dict[str, list[Tensor]] = {name: [] for name in RULES}
    right = []
    for images, labels in loader:
        outputs = torch.cat(list(snn.outputs(images.to(device), steps))).cpu()
        curve = snn.readout(outputs, snn.drive)
        right.append(curve.argmax(-1) == labels)
        for name, rule in RULES.items():
            sure[name].append(rule(outputs, curve))
    looking = st.EarlyExit(confidence=inf, steps=steps)
    hits = torch.cat(right, 1)
    return {
        name: ExitCurve(looking=looking, sure=torch.cat(parts, 1), right=hits)
        for name, parts in sure.items()
    }


def row(name: str, tolerance: float, fitted: ExitCurve, judged: ExitCurve, full: float) -> str:
    """Return a line of the table of rules."""
    least = fitted.fit(tolerance).confidence
    before, (seen, seen_steps), (top1, steps) = (
        fitted.at(inf)[0],
        fitted.at(least),
        judged.at(least),
    )
    cells = (
        name, f"{fitted.right.shape[1]:,}", f"{tolerance:g}", f"{least:.3g}", f"{seen_steps:.2f}",
        f"{seen - before:+.2f}", f"**{steps:.2f}**", f"{top1:.2f}", f"{top1 - full:+.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def first(curve: ExitCurve, images: int) -> ExitCurve:
    """Return the curve of the first images."""
    return ExitCurve(
        looking=curve.looking, sure=curve.sure[:, :images], right=curve.right[:, :images]
    )


def table(seen: dict[str, ExitCurve], judged: dict[str, ExitCurve]) -> list[str]:
    """Return a line for each rule, tolerance and number of training images."""
    shipped, *others = RULES
    full = judged[shipped].at(inf)[0]
    heads = (
        "rule", "training images", "tolerance, points", "confidence", "mean T there",
        "points there", "mean T, test", "top-1, test", "points, test",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    fitted = seen[shipped]
    counts = sorted({min(n, fitted.right.shape[1]) for n in (1000, 3000, 10**9)}, reverse=True)
    lines += [row(shipped, 0.0, first(fitted, n), judged[shipped], full) for n in counts]
    lines += [row(shipped, points, fitted, judged[shipped], full) for points in (0.05, 0.1, 0.5)]
    return lines + [row(name, 0.0, seen[name], judged[name], full) for name in others]


def told(result: ExitResult, curve: ExitCurve, least: float) -> list[str]:
    """Return what the run gave, and when images left."""
    share = 100 * torch.tensor(result.leaving).cumsum(0) / result.images
    heads = " | ".join(str(step) for step in range(1, result.steps + 1))
    return [
        f"Run with the confidence of the first row, {least:.4g}: {result}; 95 % interval "
        f"{result.low:.2f} to {result.high:.2f} %; {result.agreement:.2f} % of images are answered "
        f"as at T = {result.steps}. Seconds on the clock: {result.seconds:.0f} against "
        f"{result.full_seconds:.0f}. The simulation above said {curve.at(least)[1]:.2f} steps.",
        "",
        f"| step | {heads} |",
        "|---" * (result.steps + 1) + "|",
        f"| images leaving | {' | '.join(map(str, result.leaving))} |",
        f"| gone by then, % | {' | '.join(f'{gone:.1f}' for gone in share.tolist())} |",
    ]


def main(settings: Settings) -> None:
    """Simulate training and test images, run the exit, and write the tables."""
    torch.set_num_threads(settings.threads)
    snn = network(settings)
    shown, test = (
        DataLoader(st.load_data("fashion-mnist", split, settings.data, limit=limit), settings.batch)
        for split, limit in (("train", settings.images), ("test", settings.limit))
    )
    seen, judged = (curves(snn, loader, settings.steps) for loader in (shown, test))
    shipped = next(iter(RULES))
    found = seen[shipped].fit()
    lines = [
        f"`{' '.join(['python', *sys.argv])}`",
        "",
        f"{device_name(settings.device)}, {settings.threads} thread(s), torch {torch.__version__}; "
        f"resnet10t on Fashion-MNIST, {snn.about['method']}, batches of {settings.batch}. "
        f"All images at T = {settings.steps}: {judged[shipped].at(inf)[0]:.2f} % of the test, "
        f"{seen[shipped].at(inf)[0]:.2f} % of the training images.",
        "",
        *table(seen, judged),
    ]
    print("\n".join(lines), flush=True)
    result = st.measure_exit(snn, test, found, device=settings.device)
    lines += ["", *told(result, judged[shipped], found.confidence)]
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-5:]))


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
