"""What each of two processes does under torchrun; ``test_tune_distributed`` compares with one.

Also imported by that test, which runs the same with all images in one process.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tuning_networks import small_ann

from spiketune.finetune import (
    DIET,
    OTTT,
    QCFS,
    RMP,
    SLTT,
    STDB,
    TET,
    Features,
    IMLoss,
    Loss,
    SurrogateBPTT,
    Training,
    Update,
    checkpoint,
    tune,
)
from spiketune.snn import ATan, Scaled, SpiketuneError, SpikingNetwork, load

IMAGES = 48
BATCH = 16
Loader = DataLoader[tuple[Tensor, ...]]


def images(folder: Path) -> TensorDataset:
    """The images of the test, float64."""
    x, labels = torch.load(folder / "data.pt", weights_only=True)
    return TensorDataset(x[:IMAGES].double(), labels[:IMAGES])


def plain(folder: Path, count: int, **settings: Any) -> Loader:
    """A loader that knows nothing of processes, in a fixed order."""
    return DataLoader(images(folder), BATCH // count, **settings)


def own(folder: Path, count: int, rank: int) -> Loader:
    """A loader with the sampler of torch, which shuffles anew in each epoch."""
    data = images(folder)
    return DataLoader(data, BATCH // count, sampler=DistributedSampler(data, count, rank, seed=3))


def network(folder: Path, kind: str) -> SpikingNetwork:
    """A network of the test, float64."""
    return load(folder / f"{kind}.safetensors").double()


def teacher() -> nn.Module:
    """The same in all processes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


def run(folder: Path, count: int, rank: int) -> dict[str, Any]:
    """Train in several ways and return what came of each."""
    found: dict[str, Any] = {}

    def train(name: str, kind: str, loader: Loader, rule: Any, **settings: Any) -> None:
        snn = network(folder, kind)
        history = tune(snn, loader, rule, **({"steps": 3, "epochs": 2} | settings))
        epochs = [asdict(epoch) | {"seconds": 0.0} for epoch in history.epochs]
        found[name] = {"weights": dict(snn.state_dict()), "epochs": epochs}

    test = plain(folder, 1, shuffle=True)
    train(
        "own sampler", "lif", own(folder, count, rank), SurrogateBPTT(), validate=test,
        training=Training(learning_rate=0.01), teacher=teacher(),
    )  # fmt: skip
    sgd = Training(optimizer="sgd", learning_rate=0.1, accumulate=2, ema=0.8)
    train("accumulated", "if", plain(folder, count), SurrogateBPTT(), training=sgd, validate=test)
    online = {"steps": 4, "training": Training(optimizer="sgd", learning_rate=0.01)}
    train("each step", "if", plain(folder, count), OTTT(), **online)
    train("spike times", "lif", plain(folder, count), STDB(), training=sgd)
    train("leaks", "lif", plain(folder, count), DIET(), training=sgd)
    train("drawn steps", "if", plain(folder, count), SLTT(k=2), **online)
    train("quantised", "ternary", plain(folder, count), QCFS(levels=2), training=sgd)
    losses: dict[str, Loss] = {"TET": TET(), "RMP": RMP(weight=1.0), "IMLoss": IMLoss(weight=1.0)}
    for name, loss in losses.items():
        of = Training(optimizer="sgd", learning_rate=0.1, accumulate=1, loss=loss)
        train(name, "lif", plain(folder, count), SurrogateBPTT(), training=of)
    hints = Training(optimizer="sgd", learning_rate=0.1, features=Features(at=("1",), weight=5.0))
    train(
        "features", "if", plain(folder, count), SurrogateBPTT(), training=hints,
        teacher=small_ann(1).double(),
    )  # fmt: skip
    return found


def only_together(folder: Path, rank: int) -> dict[str, Any]:
    """What one process could not show."""
    found: dict[str, Any] = {}
    snn = network(folder, "norm")
    # A rate that rounds to none: what the BatchNorm sees is then known in advance.
    still = Training(optimizer="sgd", learning_rate=1e-30, weight_decay=0.0)
    tune(snn, plain(folder, 2), SurrogateBPTT(), steps=2, epochs=1, training=still)
    found["norm"] = dict(snn.state_dict())
    found["resumed"] = resumed(folder, lambda: plain(folder, 2, shuffle=True))
    found["resumed with generators"] = resumed(folder, lambda: drawing(folder, rank))
    calls: list[Update] = []
    tune(
        network(folder, "if"), plain(folder, 2), SurrogateBPTT(), steps=2, epochs=1,
        log=folder / "log", on_batch=calls.append,
    )  # fmt: skip
    found["calls"] = len(calls)
    found["refused"] = {name: refused(wrong) for name, wrong in wrongs(folder, rank).items()}
    return found


class Drawing(DistributedSampler[Any]):
    """Shuffle a share by a generator of the process's own."""

    def __init__(self, data: TensorDataset, rank: int) -> None:
        super().__init__(data, 2, rank, shuffle=False)
        self.generator = torch.Generator().manual_seed(rank)

    def __iter__(self) -> Iterator[int]:
        own = list(super().__iter__())
        return (own[place] for place in torch.randperm(len(own), generator=self.generator))


def drawing(folder: Path, rank: int) -> Loader:
    """A loader whose order the process draws itself."""
    data = images(folder)
    return DataLoader(data, BATCH // 2, sampler=Drawing(data, rank))


def resumed(folder: Path, loader: Callable[[], Loader]) -> list[dict[str, Tensor]]:
    """Weights of a run, and of the same run resumed in the middle of its second epoch."""
    path, copy = folder / "run.pt", folder / "copy.pt"
    if dist.get_rank() == 0:
        path.unlink(missing_ok=True)

    def keep(done: Update) -> None:
        if done.update == 4:
            shutil.copy(path, copy)

    weights = []
    use: dict[str, Any] = {"steps": 2, "epochs": 2, "training": Training(mixup=0.5, ema=0.9)}
    for settings in (
        {"checkpoint": path, "checkpoint_every": 1, "on_batch": keep},
        {"checkpoint": copy, "resume": True},
    ):
        snn = network(folder, "if")
        tune(snn, loader(), SurrogateBPTT(), **use, **settings)
        weights.append(dict(snn.state_dict()))
    return weights


def wrongs(folder: Path, rank: int) -> dict[str, Callable[[], object]]:
    """What must be refused, in both processes."""

    def train(loader: Any, **settings: Any) -> Callable[[], object]:
        snn = network(folder, "if")
        return lambda: tune(snn, loader, SurrogateBPTT(), steps=1, epochs=1, **settings)

    def full() -> object:
        write = checkpoint.write

        def fail(*_: Any) -> None:
            assert rank == 0
            raise checkpoint.TuneError("no room")

        checkpoint.write = fail
        try:
            return train(plain(folder, 2), checkpoint=folder / "full.pt")()
        finally:
            checkpoint.write = write

    def calibrated_apart() -> object:
        snn = network(folder, "if")
        for _, neuron in snn.neurons():
            slope = Scaled(surrogate=ATan(), gain=1.0 + rank)
            neuron.firing = replace(neuron.firing, surrogate=slope)
        return tune(snn, plain(folder, 2), SurrogateBPTT(surrogate=None), steps=1, epochs=1)

    x, labels = images(folder).tensors
    few = TensorDataset(x[: 16 + 16 * rank], labels[: 16 + 16 * rank])
    return {
        "list": train([(x, labels)]),
        "others": train(own(folder, 4, 3)),
        "lengths": train(DataLoader(few, 8, sampler=DistributedSampler(few, 2, rank))),
        "full": full,
        "taken": train(plain(folder, 2), checkpoint=folder / "run.pt"),
        "log": train(plain(folder, 2), log=folder / "log"),
        "no log": train(plain(folder, 2), log=folder / "data.pt" / "log"),
        "slopes": calibrated_apart,
    }


def refused(action: Callable[[], object]) -> str:
    """Return what was said."""
    try:
        action()
    except SpiketuneError as error:
        return str(error)
    return "done"


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, this = Path(sys.argv[1]), int(os.environ["RANK"])
    results = run(where, 2, this)
    results["together"] = only_together(where, this)
    torch.save(results, where / f"results-{this}.pt")
