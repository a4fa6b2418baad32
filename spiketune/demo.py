"""``spiketune demo``: the whole story on scikit-learn's digits, offline, in a minute or two."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader

import spiketune as st
from spiketune.snn.network import check_steps

from .progress import bars, training_bar

BUDGET = 4


def demo(
    *,
    out: Path = Path("runs/demo"),
    steps: int = 16,
    tune_epochs: int = 3,
    direct_epochs: int = 8,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Convert a bundled network in several ways, fine-tune one, train one directly, compare all.

    Args:
        out: folder for the table, the plot and the report page.
        steps: largest step budget in the comparison.
        tune_epochs: passes over the training images for the fine-tuning.
        direct_epochs: the same for the direct training.
        threads: of torch. Layers this small gain little from a second one, and lose minutes to it
            where another program keeps that core busy.
        seed: of the fine-tuning and the direct training.
    """
    torch.set_num_threads(check_steps(threads, "threads"))
    torch.manual_seed(seed)
    ann = st.load_ann("digits_resnet")
    train = st.load_data("digits", "train", cfg=ann)
    test = st.load_data("digits", "test", cfg=ann)
    images = DataLoader(train, batch_size=64)
    counts = len(DataLoader(train, batch_size=1)), len(DataLoader(test, batch_size=1))
    print(
        "digits_resnet, trained on {} of scikit-learn's digits, tested on the {} others;\n"
        "step budgets 1 to {}; about a minute.\n".format(*counts, steps)
    )

    models: dict[str, torch.nn.Module] = {"ANN": ann}
    models["binary, max"] = st.to_snn(ann, images, st.Binary(steps=steps, threshold=st.Max()))
    models["binary, MSE"] = st.to_snn(ann, images, st.Binary(steps=steps))
    models["ternary, MSE"] = st.to_snn(ann, images, st.Ternary(steps=steps))
    models["graded"] = st.to_snn(ann, images)

    shuffled = DataLoader(train, batch_size=64, shuffle=True)
    tuned = st.to_snn(ann, images, st.Ternary(steps=BUDGET))
    with training_bar("fine-tuning", tune_epochs) as on_batch:
        st.tune(
            tuned, shuffled, st.SurrogateBPTT(), steps=BUDGET, epochs=tune_epochs, teacher=ann,
            training=st.Training(learning_rate=3e-4), seed=seed, on_batch=on_batch,
        )  # fmt: skip
    models[f"ternary, tuned at T={BUDGET}"] = tuned

    direct = st.twin(st.load_ann("digits_resnet", pretrained=False), BUDGET, tuned.input_shape)
    with training_bar("training directly", direct_epochs) as on_batch:
        st.tune(
            direct, shuffled, st.SurrogateBPTT(), steps=BUDGET, epochs=direct_epochs,
            training=st.Training(learning_rate=5e-3), seed=seed, on_batch=on_batch,
        )  # fmt: skip
    models[f"direct at T={BUDGET}"] = direct

    with bars("comparing", rounds=1, batches=len(models), unit="network") as on_batch:
        order = list(models)
        table = st.sweep(
            models, DataLoader(test, batch_size=128), steps,
            progress=lambda name, *_: on_batch(1, order.index(name) + 1),
        )  # fmt: skip
    print(f"\n{table}\n")
    folder = table.save(out)
    print(f"Table, plot and report page: {folder}/report.html")
