"""Convert the networks of ``train_anns.py`` without training, and compare every budget of steps.

    python scripts/train_anns.py --data /path/to/data
    python scripts/conversions.py --data /path/to/data --only '[lenet,residual14]'

Thresholds and corrections see 1,024 training images; the table is made on the whole test set, or
the first ``--limit`` images of it. Each network leaves ``table.md``, ``table.csv`` and
``curves.png`` in ``--results``. On a CPU much of the time goes into fetching memory anew for each
operation; glibc keeps it, and the script runs faster, after

    export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch.utils.data import DataLoader
from train_anns import RECIPES, trained

import spiketune as st


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        only: the networks to convert.
        recipes: presets to compare, at ``recipe_steps``; ours come beside them.
        methods: rows to make, of those named in ``methods``; by default all.
        recipe_steps: step count that the presets are made for.
        data: folder with the data sets; by default the usual places.
        work: folder with the weights.
        results: folder for the tables.
        steps: budgets to report.
        limit: at most so many test images.
        batch: images at once.
        threads: of torch.
    """

    only: list[str] = field(
        default_factory=lambda: ["lenet", "residual14", "resnet50", "vit", "convnext"]
    )
    recipes: list[str] = field(default_factory=lambda: ["rueckauer2017"])
    methods: list[str] | None = None
    recipe_steps: int = 16
    data: str | None = None
    work: Path = Path("runs/anns")
    results: Path = Path("docs/results/conversions")
    steps: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 8, 16])
    limit: int | None = None
    batch: int = 50
    threads: int = 2


def methods(settings: Settings) -> dict[str, st.Method]:
    """Return what is compared: the presets of the field, and ours."""
    longest = max(settings.steps)
    named = {name: st.recipe(name, settings.recipe_steps) for name in settings.recipes}
    budgets = [t for t in (4, 8, 16) if t <= longest]
    plain = {f"ternary, for T={t}": st.Ternary(steps=t) for t in budgets}
    corrections = (st.BiasCorrection(images=32),)
    corrected = {
        f"ternary, corrected, T={t}": st.Ternary(steps=t, corrections=corrections)
        for t in budgets[-2:]
    }
    found = {**named, **plain, **corrected, "graded": st.Graded()}
    return {k: v for k, v in found.items() if settings.methods is None or k in settings.methods}


def main(settings: Settings) -> None:
    """Convert, compare and write the table of each network."""
    torch.set_num_threads(settings.threads)
    for name in settings.only:
        data = RECIPES[name].data
        ann = trained(name, settings.work)
        images = st.load_data(data, "train", settings.data, limit=1024).tensors[0]
        models = {"ANN": ann}
        for label, method in methods(settings).items():
            try:
                models[label] = st.to_snn(ann, images, method)
            except st.ConversionError as error:  # a binary neuron has no place in a ViT
                print(f"{name}, {label}: refused, {error}", flush=True)
                continue
            print(f"{name}, {label}: {models[label].about}", flush=True)
        test = st.load_data(data, "test", settings.data, limit=settings.limit)
        table = st.sweep(models, DataLoader(test, settings.batch), settings.steps)
        print(f"\n{name} on {data}\n{table}\n", flush=True)
        folder = table.save(settings.work / f"{name}_sweep")
        results = settings.results / name
        results.mkdir(parents=True, exist_ok=True)
        (results / "table.md").write_text(table.markdown())
        for file in ("table.csv", "curves.png"):
            shutil.copy(folder / file, results / file)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
