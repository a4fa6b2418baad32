r"""Short-latency fine-tuning side by side: converted, hybrid by each rule, and trained directly.

    python scripts/train_anns.py --data /path/to/data --only '[resnet50, residual14]'
    python scripts/finetuning.py --data /path/to/data --net resnet50 --images 20000 \
        --precision bfloat16 --limit 1000

Every row is made in a process of its own, so that its peak memory is its own, and leaves its
network and its account in ``--work``; a row that is there, made with the same settings, is not made
again. All rows see the same images the same number of times, at ``--train_steps`` or at the ``T``
that they name (those that need longer for it see fewer; one sees all there are); the table then
tests every one of them on all ``--steps``. Hybrids start from a conversion whose biases were
corrected on 64 images, and have the ANN that they came from as their teacher; direct training has
none. STDB starts from binary spikes; the paper's own thresholds and rates are
``st.recipe("rathi2020", steps)`` with ``st.hybrid("rathi2020", epochs)``.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from finetuning_rows import ROWS, Parts
from jsonargparse import auto_cli
from torch import nn
from torch.utils.data import DataLoader, Subset
from train_anns import RECIPES, trained

import spiketune as st
from spiketune.finetune import Precision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed from the command line.

    Attributes:
        net: a network of ``train_anns.py``.
        rows: what to compare; by default all.
        train_steps: ``T`` of all training, but of rows that name their own.
        steps: budgets to test.
        images: training images in an epoch; all by default.
        epochs: passes over them.
        batch: images at once.
        precision: ``bfloat16`` trains under autocast; tests are in float32.
        limit: test images; all by default.
        data: folder with the data sets; by default the usual places.
        anns: folder of ``train_anns.py``.
        work: folder for networks and accounts.
        results: folder for the table.
        threads: of torch.
        device: of training and of the table.
        only_row: make this one row and stop; the script calls itself so.
    """

    net: str = "resnet50"
    rows: list[str] = field(default_factory=lambda: list(ROWS))
    train_steps: int = 4
    steps: list[int] = field(default_factory=lambda: [2, 4, 8, 10])
    images: int | None = None
    epochs: int = 1
    batch: int = 32
    precision: Precision = "float32"
    limit: int | None = None
    data: str | None = None
    anns: Path = Path("runs/anns")
    work: Path = Path("runs/finetuning")
    results: Path = Path("docs/results/finetuning")
    threads: int = 2
    device: str = "cpu"
    only_row: str | None = None


SHOWN = ("trained at", "teacher", "epochs", "images", "seconds", "peak MB")


def make(row: str, settings: Settings) -> None:
    """Make one row: its network, and an account of what it took."""
    data = RECIPES[settings.net].data
    shape = {"input_size": (1, 28, 28)}
    # Of MNIST the ANN was trained without flips; of Fashion-MNIST with them.
    seen = st.load_data(data, "train", settings.data, cfg=shape, augment=data != "mnist")
    plain = st.load_data(data, "train", settings.data, cfg=shape, limit=1024)
    share, most = ROWS[row].share, settings.images or len(seen)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    seen = Subset(seen, order[: len(seen) if share is None else int(most * share)].tolist())
    parts = Parts(
        build=RECIPES[settings.net].build,
        ann=trained(settings.net, settings.anns),
        images=torch.stack([image for image, _ in plain]),
        loader=DataLoader(seen, settings.batch, shuffle=True, drop_last=True),
        epochs=settings.epochs,
        steps=settings.train_steps,
        precision=settings.precision,
        device=settings.device,
    )
    began = time.perf_counter()
    snn = ROWS[row].make(parts)
    account = {
        "made with": made_with(settings),
        "trained at": snn.about.get("tuned_steps", ""),
        "teacher": "ANN" if row.startswith("hybrid") else "",
        "epochs": snn.about.get("epochs", 0),
        "images": snn.about.get("training_images", 0),
        "seconds": round(time.perf_counter() - began),
        "peak MB": round(peak(settings.device)),
        "gradients": snn.about.get("gradients", ""),
    }
    st.save(snn, where(row, settings))
    where(row, settings).with_suffix(".json").write_text(json.dumps(account) + "\n")


def made_with(settings: Settings) -> dict[str, int | str | None]:
    """Return the settings on which a row depends."""
    names = ("train_steps", "images", "epochs", "batch", "precision", "device")
    return {name: getattr(settings, name) for name in names}


def account_of(row: str, settings: Settings) -> dict[str, Any] | None:
    """Return a row's account, None if it was not made yet.

    Raises:
        SpiketuneError: if it was made with other settings.
    """
    path = where(row, settings).with_suffix(".json")
    if not path.exists():
        return None
    account: dict[str, Any] = json.loads(path.read_text())
    if account["made with"] != made_with(settings):
        raise st.SpiketuneError(
            f"{path} was made with {account['made with']}; give the same settings, or another "
            "--work"
        )
    return account


def peak(device: str) -> float:
    """Return the most memory, in MB, that this process has held; on a GPU, the tensors there."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def where(row: str, settings: Settings) -> Path:
    """Return the file of a row's network."""
    return settings.work / settings.net / f"{row.replace(', ', '_').replace(' ', '_')}.safetensors"


def tested(row: str, settings: Settings) -> st.Table:
    """Test one row beside the ANN at every budget; a test that was made is read again."""
    budgets = "_".join(str(t) for t in settings.steps)
    name = f"{where(row, settings).stem}_{settings.limit or 'all'}_{budgets}"
    folder = settings.work / settings.net / "tests" / name
    if (folder / "table.json").exists():
        return st.Table.load(folder)
    ann = trained(settings.net, settings.anns)
    data = RECIPES[settings.net].data
    test = st.load_data(data, "test", settings.data, cfg=ann, limit=settings.limit)
    models: dict[str, nn.Module] = {"ANN": ann, row: st.load(where(row, settings))}
    table = st.sweep(
        models, DataLoader(test, 50), settings.steps, reference="ANN", device=settings.device
    )
    table.save(folder)
    return table


def compare(settings: Settings) -> None:
    """Test all rows at every budget and write the table."""
    tables = [tested(row, settings) for row in settings.rows]
    found = [one for table, row in zip(tables, settings.rows, strict=True) for one in table.of(row)]
    table = replace(tables[0], rows=(*tables[0].of("ANN"), *found))
    folder = settings.results / settings.net
    folder.mkdir(parents=True, exist_ok=True)
    made = table.save(settings.work / settings.net / "sweep")
    for name in ("table.csv", "curves.png"):
        shutil.copy(made / name, folder / name)
    (folder / "summary.md").write_text(summary(table, settings))
    print(summary(table, settings))


def summary(table: st.Table, settings: Settings) -> str:
    """Return a line a row: accuracy at each budget, and what the row took."""
    titles = ["row", *(f"T={t}" for t in settings.steps), *SHOWN]
    titles += [
        "energy at T=4 (ANN = 1)",
        "gradient, first to last neurons: at the start, before each calibration, at the end",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    ann = table.of("ANN")[-1]
    lines.append(f"| ANN | {ann.top1:.2f} |" + " |" * (len(titles) - 2))
    for row in settings.rows:
        account = account_of(row, settings)
        assert account is not None  # made above
        found = {one.steps: one for one in table.of(row)}
        cells = [row, *(f"{found[t].top1:.2f}" for t in settings.steps)]
        cells += [str(account[key]) for key in SHOWN]
        four = found.get(4)
        cells.append(
            "" if four is None or four.energy_ratio is None else f"{four.energy_ratio:.2f}"
        )
        lines.append("| " + " | ".join([*cells, str(account["gradients"])]) + " |")
    place = device_name(settings)
    made = f"{place}, {settings.precision}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"{table.rows[0].images:,} test images; trained on {made}.", ""])


def device_name(settings: Settings) -> str:
    """Return where the rows were made, in words."""
    if settings.device.startswith("cuda"):
        return torch.cuda.get_device_name(settings.device)
    return f"the CPU, {settings.threads} thread(s)"


def main(settings: Settings) -> None:
    """Make the rows that are not there yet, each in its own process, then compare them all."""
    torch.set_num_threads(settings.threads)
    if settings.only_row is not None:
        make(settings.only_row, settings)
        return
    for row in settings.rows:
        if account_of(row, settings) is None:
            print(row, flush=True)
            where(row, settings).parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, *sys.argv[1:], "--only_row", row]
            subprocess.run(command, check=True)
    compare(settings)


if __name__ == "__main__":
    main(auto_cli(Settings, as_positional=False))
