"""A run that stops in the middle of an epoch, in whatever way, goes on bit for bit."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spiketune.finetune import (
    Batch,
    Epoch,
    History,
    Learn,
    Outcome,
    Rule,
    SurrogateBPTT,
    Task,
    Training,
    TuneError,
    Update,
    checkpoint,
    register_rule,
    tune,
)
from spiketune.finetune.rules import outputs
from spiketune.snn import SpikingNetwork, save

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Noisy(Rule):
    """Learn from images with noise, so that learning draws from torch's generator."""


@register_rule(Noisy)
def noisy(snn: SpikingNetwork, rule: Noisy, task: Task) -> Learn:
    def learn(batch: Batch) -> Outcome:
        sent = outputs(snn, batch.images + 0.1 * torch.randn_like(batch.images), task.steps)
        loss = task.criterion(sent, batch)
        task.backward(loss)
        return Outcome(loss.detach(), snn.read(sent.detach()))

    return learn


class Moving(Dataset[tuple[Tensor, Tensor]]):
    """Images that are changed at random with every library's generator."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        factor = random.uniform(0.9, 1.1) * np.random.uniform(0.9, 1.1)
        image = self.data[0][index] * factor + 0.01 * torch.randn(1, 8, 8)
        return image, self.data[1][index]


def loader(data: Data, **settings: Any) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(Moving(data), 10, shuffle=True, **settings)


def same(one: SpikingNetwork, other: SpikingNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def untimed(history: History) -> list[Epoch]:
    return [replace(epoch, seconds=0.0) for epoch in history.epochs]


SETTINGS = {
    "adamw": Training(learning_rate=5e-3, accumulate=3, ema=0.9, mixup=0.4, cutmix=0.4, erase=0.2),
    "lookahead_sgd": Training(
        optimizer="lookahead_sgd", learning_rate=0.02, schedule="step",
        schedule_options={"decay_epochs": 0.5}, optimizer_options={"nesterov": False},
    ),
    "adopt": Training(optimizer="adopt", learning_rate=5e-3, schedule="wsd", clip_grad=None),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("own", [False, True])
def test_resume_within_an_epoch_equals_never_having_stopped(
    build: Build, data: Data, tmp_path: Path, name: str, own: bool
) -> None:
    def images() -> DataLoader[tuple[Tensor, Tensor]]:
        return loader(data, generator=torch.Generator().manual_seed(9) if own else None)

    path, copies = tmp_path / "run.pt", list[Path]()
    use: dict[str, Any] = {
        "steps": 2, "epochs": 2, "training": SETTINGS[name], "validate": loader(data), "seed": 4,
        "checkpoint": path, "checkpoint_every": 2,
    }  # fmt: skip

    def keep(done: Update) -> None:
        torch.rand(3), random.random()  # a caller's own draws change nothing
        if done.update % 2 == 0 and done.batch < done.batches:
            copies.append(Path(shutil.copy(path, tmp_path / f"{done.update}.pt")))

    whole = build()
    history = tune(whole, images(), Noisy(), on_batch=keep, **use)
    assert len(copies) >= 2
    for number, copy in enumerate(copies):
        again, told = build(seed=5), list[Update]()
        torch.rand(number), np.random.rand(number)
        use |= {"checkpoint": copy, "checkpoint_every": 1}  # how often is nobody's business
        found = tune(again, images(), Noisy(), resume=True, on_batch=told.append, **use)
        assert same(again, whole)
        assert untimed(found) == untimed(history)
        assert told[0].update == int(copy.stem) + 1


def test_without_randomness_of_its_own_a_plain_list_resumes_too(
    build: Build, data: Data, tmp_path: Path
) -> None:
    batches = list(zip(data[0].split(20), data[1].split(20), strict=True))
    path, use = tmp_path / "run.pt", {"steps": 2, "epochs": 2}

    def stop(done: Update) -> None:
        if done.update == 7:
            raise KeyboardInterrupt

    whole, stopped, again = build(), build(), build()
    history = tune(whole, batches, SurrogateBPTT(), **use)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        tune(
            stopped, batches, SurrogateBPTT(), checkpoint=path, checkpoint_every=3, on_batch=stop,
            **use,  # type: ignore[arg-type]
        )  # fmt: skip
    assert checkpoint.read(path).tally.batch == 2  # of the second epoch: 6 updates are kept
    found = tune(again, batches, SurrogateBPTT(), checkpoint=path, resume=True, **use)  # type: ignore[arg-type]
    assert same(again, whole) and untimed(found) == untimed(history)


SLOW = """
import time, torch
from pathlib import Path
from spiketune.finetune import SurrogateBPTT, tune
from spiketune.snn import load

torch.set_num_threads(1)
{before}
data = torch.load({data!r})
batches = list(zip(data[0].split(10), data[1].split(10)))
def told(done):
    print(done.update, flush=True)
    time.sleep({nap})
tune(
    load({network!r}), batches, SurrogateBPTT(), steps=2, epochs=4,
    checkpoint=Path({path!r}), checkpoint_every=3, on_batch=told,
)
"""


def started(
    snn: SpikingNetwork, data: Data, tmp_path: Path, *, before: str = "", nap: float = 0.0
) -> subprocess.Popen[str]:
    """Start a run in a process of its own; it prints each update."""
    torch.save(data, tmp_path / "data.pt")
    code = SLOW.format(
        data=str(tmp_path / "data.pt"), network=str(save(snn, tmp_path / "net.safetensors")),
        path=str(tmp_path / "run.pt"), before=before, nap=nap,
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, text=True)


def resumed_is_whole(build: Build, data: Data, path: Path) -> bool:
    batches = list(zip(data[0].split(10), data[1].split(10), strict=True))
    again, whole = build(), build()
    use: dict[str, Any] = {"steps": 2, "epochs": 4}
    tune(again, batches, SurrogateBPTT(), checkpoint=path, resume=True, **use)
    tune(whole, batches, SurrogateBPTT(), **use)
    return same(again, whole)


def test_a_killed_run_loses_no_more_than_since_its_last_checkpoint(
    build: Build, data: Data, tmp_path: Path
) -> None:
    run = started(build(), data, tmp_path, nap=0.02)
    assert run.stdout is not None
    for line in run.stdout:
        if int(line) == 13:
            break
    time.sleep(0.03)  # at no particular place
    run.send_signal(signal.SIGKILL)
    rest = run.stdout.read().split()
    assert run.wait() == -signal.SIGKILL
    last = int(rest[-1]) if rest else 13
    kept = checkpoint.read(tmp_path / "run.pt")
    done = 8 * len(kept.history.epochs) + kept.tally.batch
    assert last - 3 <= done <= last + 1
    assert resumed_is_whole(build, data, tmp_path / "run.pt")


HALF = """
import os, signal
write = torch.save
def half(content, place):
    write(content, place)
    if content["tally"]["batch"] == 6:  # the third one
        os.truncate(place, place.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
"""


def test_a_run_killed_while_it_writes_leaves_the_checkpoint_before(
    build: Build, data: Data, tmp_path: Path
) -> None:
    run = started(build(), data, tmp_path, before=HALF)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / "run.pt.partial").exists()
    assert checkpoint.read(tmp_path / "run.pt").tally.batch == 3
    assert resumed_is_whole(build, data, tmp_path / "run.pt")


def test_a_full_disk_keeps_the_checkpoint_before(build: Build, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    batches = list(zip(data[0].split(10), data[1].split(10), strict=True))
    size = list[int]()

    def fill(done: Update) -> None:
        """From the fourth update on a file may grow to half a checkpoint only."""
        if done.update == 4:
            size.append(path.stat().st_size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size[0] // 2, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(TuneError, match=r"cannot be written .* the one before it is kept"):
            tune(
                build(), batches, SurrogateBPTT(), steps=2, epochs=4, checkpoint=path,
                checkpoint_every=3, on_batch=fill,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["run.pt"]  # nothing half written takes up the room
    assert path.stat().st_size == size[0] and checkpoint.read(path).tally.batch == 3
    assert resumed_is_whole(build, data, path)


def test_how_often_needs_a_file(build: Build, data: Data) -> None:
    with pytest.raises(TuneError, match="checkpoint_every needs a file"):
        tune(build(), [data], SurrogateBPTT(), steps=1, epochs=1, checkpoint_every=2)
    with pytest.raises(TuneError, match="checkpoint_every must be at least 1"):
        tune(build(), [data], SurrogateBPTT(), steps=1, epochs=1, checkpoint_every=0)
