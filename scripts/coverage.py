"""Which timm architectures convert, and how close the spiking network comes to the ANN.

    python scripts/coverage.py
    python scripts/coverage.py --only [resnet18,swin_tiny_patch4_window7_224] --redo true

``--families`` is a list of lines ``family<TAB>name``. Finished rows are kept in
``<results>/coverage.json`` and skipped the next time; ``coverage.md`` is the table.

What converts is a matter of the architecture, so the weights are random and the images small and
smooth. Freshly made networks would flatter the figures, as many of their branches are scaled by
zero: whatever the initialisation leaves at one value is shaken, and BatchNorm sees some images.
Beside the signal-to-error ratio in decibels stand two checks. ``exact`` runs the same network with
spikes so fine that nothing but rounding may be left. ``varies``, in the JSON file, says how far the
answers to different images lie apart: an answer that hardly varies is easy to reach.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

import spiketune as st
from spiketune.snn import Graded as GradedNeuron
from spiketune.snn import SpikingNetwork, leaves

BUDGETS = (4, 8, 64)
GOOD = 20.0  # dB: an error of a tenth
EXACT = 60.0  # dB: what fine spikes must reach, or a rule is wrong


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        families: list of networks, ``family<TAB>name`` a line.
        only: names to look at, by default all of the list.
        steps: step count to convert for.
        sizes: sides of the images to try, the first that the network takes.
        calibration: images for the thresholds.
        images: other images to compare on.
        chunk: steps computed at once; fewer need less memory.
        seed: of weights and images.
        results: folder for ``coverage.json`` and ``coverage.md``.
        redo: whether to repeat finished rows.
        threads: of torch.
    """

    families: Path = field(default_factory=lambda: Path(__file__).with_name("timm-families.txt"))
    only: list[str] = field(default_factory=list)
    steps: int = 64
    sizes: list[int] = field(default_factory=lambda: [64, 96, 128, 192, 224, 256, 299, 512])
    calibration: int = 8
    images: int = 2
    chunk: int = 8
    seed: int = 0
    results: Path = Path("docs/results/coverage")
    redo: bool = False
    threads: int = 1


def pictures(count: int, size: int, seed: int) -> Tensor:
    """Return smooth random images, details of every scale, each with mean 0 and deviation 1."""
    random = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, size, size)
    side = 2
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=random)
        images += interpolate(noise, (size, size), mode="bicubic", align_corners=False) / side**0.5
        side *= 2
    images -= images.mean((1, 2, 3), keepdim=True)
    return images / images.std((1, 2, 3), keepdim=True)


def build(name: str, settings: Settings) -> tuple[nn.Module, int]:
    """Return the network for the smallest images that it takes, and their side."""
    errors = []
    for size in settings.sizes:
        torch.manual_seed(settings.seed)
        try:
            net = _create(name, size).eval()
            with torch.no_grad():
                net(torch.zeros(2, 3, size, size))
        except Exception as error:  # networks refuse a size in many ways
            errors.append(f"{size}: {error}")
            continue
        return net, size
    raise ValueError(f"takes no image size of {settings.sizes} ({errors[-1]})")


def _create(name: str, size: int) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(name, img_size=size)
    except TypeError:  # a network that takes any size has no such option
        net = timm.create_model(name)
    return net


def shake(net: nn.Module) -> None:
    """Give every parameter that starts at one value, or next to nothing, values that matter.

    BatchNorm's offsets are drawn above 0, for with offsets of 0 a deep network of random weights is
    chaotic: it tells nothing about a conversion, as even rounding reaches its answer. With these,
    EfficientNet-Lite0 passes an error on as it does with its ImageNet weights: noise 40 dB below
    the image comes out at 24 dB, against 26 dB.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for name, value in module.named_parameters(recurse=False):
            if value.std(correction=0) > 1e-4:
                continue
            # Gains of norms and of branches; the rest are offsets, temperatures and the like.
            gain = (value.mean() in (0, 1) and name == "weight") or 0 < value.mean() < 0.1
            noise = torch.rand_like(value) + 0.5 if gain else value + torch.randn_like(value) / 10
            value.data = noise
        if isinstance(module, _BatchNorm) and module.affine:
            nn.init.uniform_(module.bias, 0, 1)


def settle(net: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of these images, dropout switched off."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    with torch.no_grad():
        for batch in torch.split(images, 8):
            net(batch)
    net.eval()


def decibels(expected: Any, found: Any) -> float:
    """Return the signal-to-error ratio of the worst of the answers."""
    return min(
        20 * math.log10(float(a.norm()) / max(float((b - a).norm()), 1e-30))
        if bool(b.isfinite().all())
        else -math.inf
        for a, b in zip(leaves(expected), leaves(found), strict=True)
    )


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Convert one network and return its row."""
    net, size = build(name, settings)
    shake(net)
    settle(net, pictures(32, size, settings.seed + 1))
    row: dict[str, Any] = {"size": size, "verdict": ""}
    config = st.Graded(steps=settings.steps)
    began = time.perf_counter()
    try:
        snn = st.to_snn(net, pictures(settings.calibration, size, settings.seed + 2), config)
    except st.ConversionError as error:
        return {**row, "verdict": f"refused: {error}"}
    row |= {
        "seconds": round(time.perf_counter() - began, 1),
        "neurons": snn.report.neurons,
        "dense": round(snn.report.dense_share, 4),
    }
    images = pictures(settings.images, size, settings.seed + 3)
    with torch.no_grad():
        expected = net(images)
        row["ann"] = round(decibels(expected, snn.ann(images)), 1)
        row["varies"] = round(_varies(expected), 1)
        row["stored"] = _stored(snn, images, settings.chunk)
        began = time.perf_counter()
        curve = leaves(snn.unroll(images, settings.steps, chunk=settings.chunk))
        row["simulated"] = round(time.perf_counter() - began, 1)
        for steps in sorted({t for t in BUDGETS if t <= settings.steps} | {settings.steps}):
            row[f"dB{steps}"] = round(decibels(expected, [c[steps - 1] for c in curve]), 1)
        curve = leaves(_finely(snn).unroll(images, 24, chunk=settings.chunk))
        row["exact"] = round(decibels(expected, [c[-1] for c in curve]), 1)
    good = row[f"dB{settings.steps}"] >= GOOD
    # A chaotic network magnifies its own rounding, which shows in the rewritten graph too.
    right = row["exact"] >= min(EXACT, row["ann"] - 10) and row["stored"]
    row["verdict"] = ("ok" if good else "low") if right else "wrong"
    return row


def _varies(expected: Any) -> float:
    """Return how far the answers to the images lie from their mean, in dB below the answers."""
    return decibels(expected, [a.mean(0).expand_as(a) for a in leaves(expected)])


def _stored(snn: SpikingNetwork, images: Tensor, chunk: int) -> bool:
    """Whether the network answers the same after it was saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        st.save(snn, path)
        loaded = st.load(path)
    curves = [leaves(each.unroll(images, 4, chunk=chunk)) for each in (snn, loaded)]
    return all(torch.equal(a, b) for a, b in zip(*curves, strict=True))


def _finely(snn: SpikingNetwork) -> SpikingNetwork:
    """Let its neurons send three spikes a step, as small as need be: only rounding remains.

    Part of every message still comes after the first step, when the image acts no longer, so that
    every rule is tried both while it acts and afterwards.
    """
    for _, neuron in snn.neurons():
        assert isinstance(neuron, GradedNeuron)
        neuron.levels, neuron.spikes = 30, 3
        # A channel almost silent on the calibration images would take its time.
        neuron.threshold.fill_(neuron.threshold.max())
    return snn


def table(rows: dict[str, dict[str, Any]], families: dict[str, str], steps: int) -> str:
    """Return the rows in the order of the list, as Markdown."""
    budgets = sorted({t for t in BUDGETS if t <= steps} | {steps})
    names = [name for name in families if name in rows]
    good = sum(rows[name]["verdict"] == "ok" for name in names)
    heads = [
        "family", "network", "size", "neuron layers", "dense %", *(f"dB T={t}" for t in budgets),
        "exact dB", "seconds", "verdict",
    ]  # fmt: skip
    lines = [
        "# Coverage of timm's architectures\n",
        f"{good} of {len(names)} networks ({100 * good / max(len(names), 1):.1f} %) convert and "
        f"reach {GOOD:.0f} dB at T={steps}. Made with `python scripts/coverage.py`, which says "
        "how the networks and images are made.\n",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for name in names:
        row = rows[name]
        dense = f"{100 * row['dense']:.1f}" if "dense" in row else ""
        cells = [
            families[name], name, row.get("size", ""), row.get("neurons", ""), dense,
            *(row.get(f"dB{t}", "") for t in budgets),
            row.get("exact", ""), row.get("seconds", ""), row["verdict"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def tried(measure: Callable[[str, Settings], dict[str, Any]], name: str, settings: Settings) -> Any:
    """Return the row of one network; one that fails must not end the list."""
    try:
        return measure(name, settings)
    except Exception as error:  # a bug to look at, whatever it is
        first = (str(error).strip().splitlines() or [""])[0]
        return {"verdict": f"failed: {type(error).__name__}: {first[:160]}"}


def main(settings: Settings) -> None:
    """Fill the table, a row at a time."""
    torch.set_num_threads(settings.threads)
    warnings.simplefilter("ignore")  # timm's and torch.export's own
    listed = [line.split("\t") for line in settings.families.read_text().splitlines()]
    families = {line[1]: line[0] for line in listed if len(line) == 2}
    settings.results.mkdir(parents=True, exist_ok=True)
    kept = settings.results / "coverage.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in settings.only or families:
        families.setdefault(name, "")
        if name in rows and not settings.redo:
            continue
        began = time.perf_counter()
        rows[name] = tried(measure, name, settings)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        page = table(rows, families, settings.steps)
        (settings.results / "coverage.md").write_text(page)
        shown = {key: value for key, value in rows[name].items() if key != "verdict"}
        seconds = time.perf_counter() - began
        print(f"{name}: {rows[name]['verdict']} {shown} {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
