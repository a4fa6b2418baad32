"""Short-latency fine-tuning side by side: converted, hybrid by each rule, and trained directly.

    python scripts/train_anns.py --data /path/to/data --only '[resnet50, residual14]'
    python scripts/finetuning.py --data /path/to/data --net resnet50 --images 12800 --epochs 1

Every row is made in a process of its own, so that its peak memory is its own, and leaves its
network and its account in ``--work``; a row that is there, made with the same settings, is not made
again. All rows see the same images the same number of times, at ``--train_steps`` or at the ``T``
that they name; the table then tests every one of them on all ``--steps``. Hybrids start from a
conversion whose biases were corrected on 64 images, and have the ANN that they came from as their
teacher; direct training has none. STDB and DIET start from binary spikes; the papers' own
thresholds and rates are ``st.recipe("rathi2020", steps)`` with ``st.hybrid("rathi2020", epochs)``,
and ``diet2021``.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
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
    only_row: str | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a row is made of."""

    ann: nn.Module
    images: Tensor
    loader: DataLoader[Any]
    epochs: int
    steps: int
    precision: Precision

    def tuned(
        self,
        snn: st.SpikingNetwork,
        rule: st.Rule,
        rate: float,
        *,
        steps: int | None = None,
        taught: bool = True,
        features: st.Features | None = None,
        watch: Callable[[Any], None] = lambda update: None,
    ) -> st.SpikingNetwork:
        """Tune a network and show the loss now and then."""

        def show(update: Any) -> None:
            watch(update)
            if update.batch % 20 == 0:
                print(
                    f"  epoch {update.epoch}, batch {update.batch}: {update.loss:.3f}", flush=True
                )

        st.tune(
            snn, self.loader, rule, steps=steps or self.steps, epochs=self.epochs,
            teacher=self.ann if taught else None,
            training=st.Training(learning_rate=rate, features=features), on_batch=show,
            precision=self.precision,
        )  # fmt: skip
        return snn

    def converted(self, method: st.Method) -> st.SpikingNetwork:
        """Convert the ANN."""
        return st.to_snn(self.ann, self.images, method)

    def binary(self) -> st.SpikingNetwork:
        """Convert to binary spikes, biases corrected."""
        return self.converted(st.Binary(steps=self.steps, corrections=CORRECTED))

    def ternary(self) -> st.SpikingNetwork:
        """Convert to ternary spikes, biases corrected."""
        return self.converted(st.Ternary(steps=self.steps, corrections=CORRECTED))

    def normed(self) -> st.SpikingNetwork:
        """Put BatchNorm back on the currents of ``ternary``, every slope calibrated."""
        snn = st.unfold(self.ternary(), self.images[:256], steps=self.steps)
        st.calibrate_gain(snn, self.images[:64], steps=self.steps, surrogate=st.snn.Triangle())
        return snn

    def block_ends(self) -> st.Features:
        """Let the neurons at the end of every residual block do what the ANN's activations do."""
        names = [name for name, _ in self.ann.named_modules()]
        last = "act3" if "layer1.0.act3" in names else "act2"
        return st.Features(at=tuple(n for n in names if n.endswith(last)), weight=0.3)


Make = Callable[[Parts], st.SpikingNetwork]
OWN = st.SurrogateBPTT(surrogate=None)  # slopes as calibrated
CORRECTED = (st.BiasCorrection(images=64),)
EVERY = 50  # updates between two calibrations of slopes, in direct training


def direct(parts: Parts, steps: int) -> st.SpikingNetwork:
    """Train the spiking twin from scratch, slopes calibrated, gradients measured."""
    torch.manual_seed(0)
    ann: Any = RECIPES[NET].build()
    # timm starts every block as the identity (its last γ is 0): slopes calibrated on that would
    # not suit the blocks that grow.
    ann.init_weights(zero_init_last=False)
    snn = st.twin(ann, steps, tuple(parts.images.shape[1:]))
    st.calibrate_gain(snn, parts.images[:64], steps=steps, surrogate=st.snn.Triangle())
    seen = [flow(snn, parts.images[:32], steps)]

    def calibrate(update: Any) -> None:
        """Calibrate again, for the slopes that suited the first weights do not suit the next."""
        if update.batch % EVERY == 0:
            seen.append(flow(snn, parts.images[:32], steps))
            st.calibrate_gain(snn, parts.images[:32], steps=steps)

    parts.tuned(snn, OWN, 3e-3, steps=steps, taught=False, watch=calibrate)
    seen.append(flow(snn, parts.images[:32], steps))
    snn.about["gradients"] = ", ".join(f"{one:.2f}" for one in seen)
    return snn


def flow(snn: st.SpikingNetwork, images: Tensor, steps: int) -> float:
    """Return the ratio of the gradient's norm at the first neurons to that at the last."""
    norms = list(st.gradient_norms(snn, images, steps=steps).values())
    return norms[0] / norms[-1]


ROWS: dict[str, Make] = {
    "converted, binary": lambda p: p.converted(st.Binary(steps=p.steps)),
    "converted, ternary": lambda p: p.converted(st.Ternary(steps=p.steps)),
    "converted, ternary, corrected": Parts.ternary,
    "converted, graded": lambda p: p.converted(st.Graded(steps=p.steps)),
    "hybrid, surrogate": lambda p: p.tuned(p.ternary(), st.SurrogateBPTT(), 3e-4),
    "hybrid, BN on currents": lambda p: st.fold_norms(p.tuned(p.normed(), OWN, 1e-3)),
    "hybrid, BN on currents, features": lambda p: st.fold_norms(
        p.tuned(p.normed(), OWN, 1e-3, features=p.block_ends())
    ),
    "hybrid, STDB": lambda p: p.tuned(p.binary(), st.STDB(), 3e-4),
    "hybrid, DIET": lambda p: p.tuned(p.binary(), st.DIET(), 3e-4),
    "hybrid, SLTT": lambda p: p.tuned(p.ternary(), st.SLTT(), 3e-4),
    "hybrid, QCFS": lambda p: p.tuned(
        p.converted(st.Ternary(steps=p.steps, drive=p.steps, encode=False)),
        st.QCFS(levels=p.steps), 3e-4,
    ),
    "direct, BN on currents": lambda p: direct(p, p.steps),
    "direct, BN on currents, T=10": lambda p: direct(p, 10),
}  # fmt: skip
SHOWN = ("trained at", "teacher", "epochs", "images", "seconds", "peak MB")
# Ten steps take two and a half times as long as four: the same time is so many of the images.
SHARES = {"direct, BN on currents, T=10": 0.4}
NET = "resnet50"  # of the run; ``direct`` builds it anew


def make(row: str, settings: Settings) -> None:
    """Make one row: its network, and an account of what it took."""
    data = RECIPES[settings.net].data
    shape = {"input_size": (1, 28, 28)}
    # Of MNIST the ANN was trained without flips; of Fashion-MNIST with them.
    seen = st.load_data(data, "train", settings.data, cfg=shape, augment=data != "mnist")
    plain = st.load_data(data, "train", settings.data, cfg=shape, limit=1024)
    if settings.images is not None:
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
        seen = Subset(seen, order[: int(settings.images * SHARES.get(row, 1))].tolist())
    parts = Parts(
        ann=trained(settings.net, settings.anns),
        images=torch.stack([image for image, _ in plain]),
        loader=DataLoader(seen, settings.batch, shuffle=True, drop_last=True),
        epochs=settings.epochs,
        steps=settings.train_steps,
        precision=settings.precision,
    )
    before, began = peak(), time.perf_counter()
    snn = ROWS[row](parts)
    account = {
        "made with": made_with(settings),
        "trained at": snn.about.get("tuned_steps", ""),
        "teacher": "ANN" if row.startswith("hybrid") else "",
        "epochs": snn.about.get("epochs", 0),
        "images": snn.about.get("training_images", 0),
        "seconds": round(time.perf_counter() - began),
        "peak MB": round(peak()),
        "of which data and ANN": round(before),
        "gradients": snn.about.get("gradients", ""),
    }
    st.save(snn, where(row, settings))
    where(row, settings).with_suffix(".json").write_text(json.dumps(account) + "\n")


def made_with(settings: Settings) -> dict[str, int | str | None]:
    """Return the settings on which a row depends."""
    names = ("train_steps", "images", "epochs", "batch", "precision")
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


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def where(row: str, settings: Settings) -> Path:
    """Return the file of a row's network."""
    return settings.work / settings.net / f"{row.replace(', ', '_').replace(' ', '_')}.safetensors"


def compare(settings: Settings) -> None:
    """Test all rows at every budget and write the table."""
    models: dict[str, nn.Module] = {"ANN": trained(settings.net, settings.anns)}
    models |= {row: st.load(where(row, settings)) for row in settings.rows}
    test = st.load_data(
        RECIPES[settings.net].data, "test", settings.data, cfg=models["ANN"], limit=settings.limit
    )
    table = st.sweep(models, DataLoader(test, 50), settings.steps, reference="ANN")
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
    made = f"{settings.threads} CPU thread(s), {settings.precision}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"{table.rows[0].images:,} test images; trained on {made}.", ""])


def main(settings: Settings) -> None:
    """Make the rows that are not there yet, each in its own process, then compare them all."""
    global NET
    NET = settings.net
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
