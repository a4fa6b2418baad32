"""The files that tell how a run went."""

from __future__ import annotations

import csv
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from spiketune.finetune import SurrogateBPTT, TuneError, Update, tune
from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
RULE = SurrogateBPTT()


def batches(data: Data) -> list[Data]:
    return list(zip(data[0].split(20), data[1].split(20), strict=True))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in sorted(folder.iterdir()):
        rows = records(path) if path.suffix == ".jsonl" else table(path)
        found[path.name] = [{**row, "seconds": 0} for row in rows]
    return found


def test_logs_hold_what_the_callbacks_are_told(build: Build, data: Data, tmp_path: Path) -> None:
    told: list[Update] = []
    history = tune(
        build(), batches(data), RULE, steps=2, epochs=2, validate=[data], on_batch=told.append,
        log=tmp_path / "log",
    )  # fmt: skip
    log = tmp_path / "log"
    assert records(log / "updates.jsonl") == [asdict(update) for update in told]
    assert records(log / "epochs.jsonl") == [asdict(epoch) for epoch in history.epochs]
    rows = table(log / "updates.csv")
    assert [float(row["loss"]) for row in rows] == [update.loss for update in told]
    assert [int(row["update"]) for row in rows] == list(range(1, 9))
    assert float(table(log / "epochs.csv")[1]["validation"]) == history.epochs[1].validation


def test_a_resumed_run_goes_on_in_the_log_where_its_checkpoint_stands(
    build: Build, data: Data, tmp_path: Path
) -> None:
    use: dict[str, Any] = {"steps": 2, "epochs": 3, "checkpoint_every": 3}
    tune(
        build(), batches(data), RULE, checkpoint=tmp_path / "whole.pt", log=tmp_path / "whole",
        **use,
    )  # fmt: skip

    def stop(done: Update) -> None:
        if done.update == 8:
            raise KeyboardInterrupt

    use |= {"checkpoint": tmp_path / "run.pt", "log": tmp_path / "log"}
    with pytest.raises(KeyboardInterrupt):
        tune(build(), batches(data), RULE, on_batch=stop, **use)
    lines = tmp_path / "log" / "updates.jsonl"
    assert len(records(lines)) == 8
    with lines.open("a") as file:  # killed in the middle of a line
        file.write('{"update": 9, "ep')
    with pytest.raises(TuneError, match="the log of an earlier run; give another log="):
        tune(build(), batches(data), RULE, **{**use, "checkpoint": tmp_path / "other.pt"})
    tune(build(), batches(data), RULE, resume=True, **use)
    assert timeless(tmp_path / "log") == timeless(tmp_path / "whole")


def test_a_log_of_something_else_is_left_alone(build: Build, data: Data, tmp_path: Path) -> None:
    use: dict[str, Any] = {"steps": 1, "epochs": 1, "checkpoint": tmp_path / "run.pt"}
    tune(build(), [data], RULE, **use)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "updates.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(TuneError, match="not the log of such a run"):
        tune(build(), [data], RULE, resume=True, log=tmp_path / "log", **use)
    assert (tmp_path / "log" / "updates.jsonl").read_text() == '{"mine": 1}\n'


def test_a_log_that_cannot_be_written_is_said(build: Build, data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneError, match=r"the log cannot be written .* give another log="):
        tune(build(), [data], RULE, steps=1, epochs=1, log=tmp_path / "file" / "log")


def test_a_disk_that_fills_up_is_said(build: Build, data: Data, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: Update) -> None:
        """From the second update on no file may grow beyond what the log has now."""
        size = (tmp_path / "updates.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    try:
        with pytest.raises(TuneError, match=r"the log cannot be written .* free some space"):
            tune(build(), batches(data), RULE, steps=1, epochs=1, log=tmp_path, on_batch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(records(tmp_path / "updates.jsonl")) == 1


def test_tensorboard_is_an_extra(
    build: Build, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(TuneError, match=r"pip install 'spiketune\[tensorboard\]'"):
        tune(build(), [data], RULE, steps=1, epochs=1, tensorboard=tmp_path / "board")


def test_tensorboard_shows_losses(build: Build, data: Data, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[Update] = []
    history = tune(
        build(), batches(data), RULE, steps=2, epochs=2, validate=[data], on_batch=told.append,
        tensorboard=tmp_path,
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = events.Scalars("update/loss")
    assert [event.step for event in shown] == [update.update for update in told]
    assert [event.value for event in shown] == pytest.approx([update.loss for update in told])
    accuracies = events.Scalars("epoch/validation")
    assert [event.step for event in accuracies] == [4, 8]
    assert accuracies[1].value == pytest.approx(history.epochs[1].validation)
