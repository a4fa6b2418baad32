"""A run that was stopped goes on as if it had not been, and its file survives what stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)
from torch.utils.data.distributed import DistributedSampler
from tuning_networks import small_ann

from spiketune.finetune import (
    Epoch,
    History,
    SurrogateBPTT,
    Training,
    TuneError,
    Update,
    checkpoint,
    tune,
)
from spiketune.snn import ATan, SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]


class Interrupt:
    """Press Ctrl-C after an epoch, or in the middle of one."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        self.epoch, self.batch = epoch, batch

    def on_epoch(self, done: Epoch) -> None:
        if self.batch is None and done.epoch == self.epoch:
            raise KeyboardInterrupt

    def on_batch(self, done: Update) -> None:
        if (done.epoch, done.batch) == (self.epoch, self.batch):
            raise KeyboardInterrupt


def loader(data: Data, **settings: Any) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*data), 16, shuffle=True, **settings)


def same(one: SpikingNetwork, other: SpikingNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def untimed(history: History) -> list[Epoch]:
    return [replace(epoch, seconds=0.0) for epoch in history.epochs]


@pytest.mark.parametrize("stop", [Interrupt(2), Interrupt(3, 2), Interrupt(1, 1)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resume_equals_never_having_stopped(
    build: Build, data: Data, tmp_path: Path, stop: Interrupt, optimizer: Any
) -> None:
    settings: dict[str, Any] = {
        "steps": 2, "epochs": 4, "teacher": small_ann(3), "validate": loader(data), "seed": 11,
        "training": Training(optimizer=optimizer, learning_rate=5e-3),
    }  # fmt: skip
    whole = build()
    history = tune(whole, loader(data), SurrogateBPTT(), **settings)

    path = tmp_path / "runs" / "run.pt"
    stopped = build()
    with pytest.raises(KeyboardInterrupt):
        tune(
            stopped, loader(data), SurrogateBPTT(), checkpoint=path,
            on_epoch=stop.on_epoch, on_batch=stop.on_batch, **settings,
        )  # fmt: skip
    assert stopped.steps == 8 and not stopped.training and "rule" not in stopped.about
    assert not same(stopped, build())

    torch.rand(7)  # whatever else the user does in between
    fresh = build(seed=5)
    resumed = tune(fresh, loader(data), SurrogateBPTT(), checkpoint=path, resume=True, **settings)
    assert same(fresh, whole)
    assert untimed(resumed) == untimed(history)
    assert fresh.steps == 2 and fresh.about.pop("seconds") and whole.about.pop("seconds")
    assert fresh.about == whole.about


def test_a_generator_of_the_callers_own_is_resumed_too(
    build: Build, data: Data, tmp_path: Path
) -> None:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(9)

    settings: dict[str, Any] = {"steps": 2, "epochs": 3}
    whole, fresh, path = build(), build(), tmp_path / "run.pt"
    tune(whole, loader(data, generator=generator()), SurrogateBPTT(), **settings)
    with pytest.raises(KeyboardInterrupt):
        tune(
            build(), loader(data, generator=generator()), SurrogateBPTT(), checkpoint=path,
            on_epoch=Interrupt(2).on_epoch, **settings,
        )  # fmt: skip
    with pytest.raises(TuneError, match="random generators"):
        tune(fresh, loader(data), SurrogateBPTT(), checkpoint=path, resume=True, **settings)
    own = loader(data, generator=generator())
    tune(fresh, own, SurrogateBPTT(), checkpoint=path, resume=True, **settings)
    assert same(fresh, whole)


def test_resuming_a_finished_run_restores_it(build: Build, data: Data, tmp_path: Path) -> None:
    path, done, again = tmp_path / "run.pt", build(), build()
    settings: dict[str, Any] = {"steps": 2, "epochs": 2, "checkpoint": path}
    history = tune(done, loader(data), SurrogateBPTT(), **settings)
    assert tune(again, loader(data), SurrogateBPTT(), resume=True, **settings) == history
    assert same(done, again) and again.about == done.about and again.steps == 2


def test_resuming_with_the_tuned_network_counts_its_run_once(
    build: Build, data: Data, tmp_path: Path
) -> None:
    snn, settings = build(), {"steps": 2, "epochs": 2, "checkpoint": tmp_path / "run.pt"}
    snn.about = {"method": "mine", "seconds": 1000}
    tune(snn, loader(data), SurrogateBPTT(), **settings)
    about = dict(snn.about)
    tune(snn, loader(data), SurrogateBPTT(), resume=True, **settings)
    assert snn.about == about and about["epochs"] == 2


def test_a_teacher_with_other_weights_is_refused(build: Build, data: Data, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 2, "epochs": 1, "checkpoint": tmp_path / "run.pt"}
    tune(build(), loader(data), SurrogateBPTT(), teacher=small_ann(3), **settings)
    for other, message in (
        (small_ann(4), r"teacher was Sequential [0-9a-f]{8}, now Sequential [0-9a-f]{8}"),
        (None, r"teacher was Sequential [0-9a-f]{8}, now None"),
    ):
        with pytest.raises(TuneError, match=message):
            tune(build(), loader(data), SurrogateBPTT(), teacher=other, resume=True, **settings)
    tune(build(), loader(data), SurrogateBPTT(), teacher=small_ann(3), resume=True, **settings)


def ordered(batch_size: int = 16, **settings: Any) -> DataLoader[tuple[Tensor, ...]]:
    """As many images and batches as the run that is resumed, in whatever order."""
    return DataLoader(TensorDataset(torch.zeros(80, 1, 8, 8)), batch_size, **settings)


def by_batches(sampler: BatchSampler) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.zeros(80, 1, 8, 8)), batch_sampler=sampler)


class Backwards(BatchSampler):
    """The same batches from the last one to the first."""

    def __iter__(self) -> Iterator[list[int]]:
        return reversed(list(super().__iter__()))


@pytest.fixture
def run(build: Build, data: Data, tmp_path: Path) -> Callable[..., History]:
    """Resume, with something changed, a run whose checkpoint exists."""
    path = tmp_path / "run.pt"
    settings: dict[str, Any] = {"rule": SurrogateBPTT(), "steps": 2, "epochs": 1}
    tune(build(), loader(data), **settings, checkpoint=path)
    before = path.read_bytes()

    def resume(snn: SpikingNetwork | None = None, **changed: Any) -> History:
        use = {"loader": loader(data), **settings, "checkpoint": path, "resume": True, **changed}
        network = build() if snn is None else snn
        weights = build() if snn is None else None
        try:
            return tune(network, **use)
        finally:
            assert path.read_bytes() == before
            assert weights is None or same(network, weights)

    return resume


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 3}, "steps was 2, now 3"),
        ({"epochs": 2}, "epochs was 1, now 2"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"rule": SurrogateBPTT(surrogate=ATan())}, r"Sigmoid\(alpha=4.0\), now ATan\(alpha"),
        ({"training": Training(learning_rate=0.5)}, "learning_rate was 0.001, now 0.5"),
        ({"teacher": nn.Flatten()}, "teacher was None, now Flatten 0"),
        ({"loader": [(torch.zeros(2, 1, 8, 8), torch.zeros(2))]}, "batches was 5, now 1"),
        ({"loader": DataLoader(TensorDataset(torch.zeros(75, 1, 8, 8)), 16)}, "80, now 75"),
        ({"loader": DataLoader(TensorDataset(torch.zeros(80, 1, 8, 8)), 17)}, "16, now 17"),
        ({"loader": ordered()}, r"sampler was RandomSampler\(replacement=False\), now Seq"),
        ({"loader": ordered(shuffle=True, drop_last=True)}, "drop_last was False, now True"),
        (
            {"loader": ordered(sampler=RandomSampler(range(80), replacement=True))},
            r"\(replacement=False\), now RandomSampler\(replacement=True\)",
        ),
        (
            {"loader": ordered(sampler=DistributedSampler(range(80), 1, 0, shuffle=False))},  # type: ignore[arg-type]
            r"now DistributedSampler\(shuffle=False, seed=0\)",
        ),
        (
            {"loader": by_batches(BatchSampler(SequentialSampler(range(80)), 16, False))},
            r"sampler was RandomSampler.*, now SequentialSampler",
        ),
        (
            {"loader": by_batches(Backwards(RandomSampler(range(80)), 16, False))},
            "batch_sampler was BatchSampler, now Backwards",
        ),
        ({"resume": False}, "holds an earlier run, which is finished; delete it"),
        ({"checkpoint": "elsewhere.pt"}, "no checkpoint to resume; start"),
        ({"checkpoint": None}, "needs the checkpoint"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_checkpoint_of_another_run_is_refused(
    run: Callable[..., History], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(TuneError, match=message):
        run(**changed)


def test_a_finished_run_says_so(build: Build, data: Data, tmp_path: Path) -> None:
    use: dict[str, Any] = {"steps": 1, "epochs": 1, "checkpoint": tmp_path / "run.pt"}
    tune(build(), [data], SurrogateBPTT(), **use)
    with pytest.raises(TuneError, match="earlier run, which is finished; delete it to start anew"):
        tune(build(), [data], SurrogateBPTT(), **use)
    (tmp_path / "run.pt").write_text("of another kind")
    with pytest.raises(TuneError, match=r"holds an earlier run; pass resume=True"):
        tune(build(), [data], SurrogateBPTT(), **use)


def test_what_torch_says_of_a_full_disk_is_said_without_its_line_of_code(
    build: Build, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0\nframe #0: main"
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError(said)))
    with pytest.raises(TuneError, match=r"cannot be written \(unexpected pos 64 vs 0\) and none"):
        tune(build(), [data], SurrogateBPTT(), steps=1, epochs=1, checkpoint=tmp_path / "run.pt")


def test_a_checkpoint_of_another_network_is_refused(
    run: Callable[..., History], build: Build
) -> None:
    with pytest.raises(TuneError, match="another network"):
        run(build("signed"))


def test_the_same_order_said_in_another_way_is_resumed(
    run: Callable[..., History], build: Build, data: Data
) -> None:
    sampler = BatchSampler(RandomSampler(TensorDataset(*data)), 16, False)  # type: ignore[arg-type]
    run(build(), loader=DataLoader(TensorDataset(*data), batch_sampler=sampler))


@pytest.mark.parametrize("left", [0.0, 0.02, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_refused(
    build: Build, data: Data, tmp_path: Path, left: float
) -> None:
    path = tmp_path / "run.pt"
    settings: dict[str, Any] = {"steps": 2, "epochs": 1, "checkpoint": path}
    tune(build(), loader(data), SurrogateBPTT(), **settings)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(TuneError, match="not a whole checkpoint"):
        tune(build(), loader(data), SurrogateBPTT(), resume=True, **settings)


@pytest.mark.parametrize(
    "content",
    [
        {"format": "other"},
        {"format": checkpoint.FORMAT},
        [1, 2],
        torch.zeros(3),
        nn.Linear(1, 1),
    ],
)
def test_a_file_of_another_kind_is_refused(
    build: Build, data: Data, tmp_path: Path, content: object
) -> None:
    path = tmp_path / "run.pt"
    torch.save(content, path)
    with pytest.raises(TuneError, match="checkpoint"):
        tune(
            build(), loader(data), SurrogateBPTT(), steps=2, epochs=1,
            checkpoint=path, resume=True,
        )  # fmt: skip


def test_a_failed_write_keeps_the_last_checkpoint(
    build: Build, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    good = torch.save

    def full(content: Any, place: Path) -> None:
        if content["history"]["epochs"]:
            place.write_bytes(b"half")
            raise OSError("No space left on device")
        good(content, place)

    monkeypatch.setattr(torch, "save", full)
    settings: dict[str, Any] = {"steps": 2, "epochs": 1, "checkpoint": path}
    with pytest.raises(TuneError, match="No space left"):
        tune(build(), loader(data), SurrogateBPTT(), **settings)
    monkeypatch.undo()
    resumed, whole = build(), build()
    tune(resumed, loader(data), SurrogateBPTT(), resume=True, **settings)
    tune(whole, loader(data), SurrogateBPTT(), steps=2, epochs=1)
    assert same(resumed, whole)


def test_a_place_that_cannot_be_written_is_said_before_training(
    build: Build, data: Data, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneError, match="cannot be written"):
        tune(
            build(), loader(data), SurrogateBPTT(), steps=2, epochs=1,
            checkpoint=tmp_path / "file" / "run.pt", on_batch=lambda *_: pytest.fail("trained"),
        )  # fmt: skip
