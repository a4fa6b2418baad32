"""A start that fails leaves nothing behind that blocks the corrected one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tuning_networks import small_ann

from spiketune.finetune import RMP, SurrogateBPTT, Training, TuneError, Update, tune
from spiketune.finetune.losses import Objective
from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
USE: dict[str, Any] = {"rule": SurrogateBPTT(), "steps": 2, "epochs": 1}


def same(one: SpikingNetwork, other: SpikingNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def batches(data: Data) -> list[Data]:
    return list(zip(data[0].split(20), data[1].split(20), strict=True))


def wrong_labels(data: Data) -> list[Data]:
    first, *others = batches(data)
    return [(first[0], first[1] + 5), *others]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda data: {"loader": wrong_labels(data)}, "batch 1: label 14"),
        (lambda data: {"loader": [data[:1]] * 4}, "yields no"),
        (lambda data: {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, "teacher"),
        (lambda data: {"training": Training(loss=RMP(weight=1e9))}, "batch 1: the loss is"),
    ],
    ids=["labels", "batch", "teacher", "loss"],
)
def test_what_fails_before_an_update_can_be_started_again(
    build: Build, data: Data, tmp_path: Path, wrong: Callable[[Data], Any], message: str
) -> None:
    files = {"checkpoint": tmp_path / "run.pt", "log": tmp_path / "log"}
    with pytest.raises(TuneError, match=message):
        tune(build(), **{**USE, "loader": batches(data), **wrong(data)}, **files)
    assert not files["checkpoint"].exists() and not list(tmp_path.glob("*.partial"))
    # With settings that a resume would refuse.
    training = Training(learning_rate=0.01)
    corrected, plain = build(), build()
    tune(corrected, batches(data), training=training, **USE, **files)
    tune(plain, batches(data), training=training, **USE)
    assert files["checkpoint"].exists() and same(corrected, plain)
    assert len((tmp_path / "log" / "updates.jsonl").read_text().splitlines()) == 4


def test_a_log_that_cannot_be_written_leaves_no_checkpoint(
    build: Build, data: Data, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "run.pt"
    with pytest.raises(TuneError, match="the log cannot be written"):
        tune(build(), [data], **USE, checkpoint=path, log=tmp_path / "file" / "log")
    assert not path.exists()
    tune(build(), [data], **USE, checkpoint=path, log=tmp_path / "log")


def test_a_checkpoint_that_cannot_be_written_leaves_no_log_in_the_way(
    build: Build, data: Data, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneError, match="the checkpoint cannot be written"):
        tune(build(), [data], **USE, checkpoint=tmp_path / "file" / "a.pt", log=tmp_path / "log")
    tune(build(), [data], **USE, checkpoint=tmp_path / "run.pt", log=tmp_path / "log")


def test_checks_of_the_loss_come_before_the_checkpoint(
    build: Build, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Objective) -> None:
        raise TuneError("no such neuron")

    monkeypatch.setattr(Objective, "__enter__", refuse)
    with pytest.raises(TuneError, match="no such neuron"):
        tune(build(), [data], **USE, checkpoint=tmp_path / "run.pt", log=tmp_path / "log")
    assert not (tmp_path / "run.pt").exists()


def test_an_earlier_run_is_never_taken_away(build: Build, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(TuneError, match="batch 4: label"):
        tune(build(), [*batches(data)[:3], *wrong_labels(data)[:1]], **USE, checkpoint=path)
    kept = path.read_bytes()
    with pytest.raises(TuneError, match="holds an earlier run"):
        tune(build(), batches(data), **USE, checkpoint=path)
    with pytest.raises(TuneError, match="batch 1: label"):
        tune(build(), wrong_labels(data), **USE, checkpoint=path, resume=True)
    assert path.read_bytes() == kept
    resumed, whole = build(), build()
    tune(resumed, batches(data), **USE, checkpoint=path, resume=True)
    tune(whole, batches(data), **USE)
    assert same(resumed, whole)


def test_a_run_stopped_by_hand_before_its_first_update_resumes(
    build: Build, data: Data, tmp_path: Path
) -> None:
    class Stopped(list[Data]):
        def __iter__(self) -> Iterator[Data]:
            raise KeyboardInterrupt

    path, told = tmp_path / "run.pt", list[Update]()
    with pytest.raises(KeyboardInterrupt):
        tune(build(), Stopped(batches(data)), **USE, checkpoint=path, teacher=small_ann(3))
    tune(
        build(), batches(data), **USE, checkpoint=path, teacher=small_ann(3), resume=True,
        on_batch=told.append,
    )  # fmt: skip
    assert [update.update for update in told] == [1, 2, 3, 4]
