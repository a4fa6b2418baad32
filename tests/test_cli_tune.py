"""Every option of ``spiketune tune`` reaches the trainer, and the bar tells how far it is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import spiketune as st
from spiketune import progress, tuning
from spiketune.cli import main
from spiketune.finetune import Update

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parent.parent


def options(network: Path, out: Path, *more: str) -> list[str]:
    few = ["--data=digits", "--steps=1", "--epochs=2", "--limit=67", "--batch=16"]
    return ["tune", f"--network={network}", f"--out={out}", *few, *more]


def test_every_option_reaches_the_trainer(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    learn = st.tune

    def note(snn: Any, loader: Any, rule: Any, **settings: Any) -> Any:
        given.update(settings, loader=loader)
        return learn(snn, loader, rule, **settings)

    monkeypatch.setattr(tuning.st, "tune", note, raising=False)
    main(
        options(
            file, tmp_path / "a.safetensors",
            "--augment=true", "--checkpoint_every=2", f"--log_to={tmp_path / 'log'}", "--seed=3",
            "--precision=bfloat16", "--workers=1", "--training.optimizer=lamb",
            "--training.optimizer_options={'betas': [0.8, 0.9]}", "--training.schedule=step",
            "--training.schedule_options.decay_epochs=1", "--training.accumulate=2",
            "--training.ema=0.9", "--training.mixup=0.2", "--training.cutmix=0.3",
            "--training.mix_options={'mode': 'pair'}", "--training.erase=0.1",
            "--training.explodes_at=null", "--training.clip_grad=2",
        )
    )  # fmt: skip
    assert given["training"] == st.Training(
        optimizer="lamb", optimizer_options={"betas": (0.8, 0.9)}, schedule="step",
        schedule_options={"decay_epochs": 1}, accumulate=2, ema=0.9, mixup=0.2, cutmix=0.3,
        mix_options={"mode": "pair"}, erase=0.1, explodes_at=None, clip_grad=2.0,
    )  # fmt: skip
    assert given["checkpoint_every"] == 2 and given["precision"] == "bfloat16"
    assert given["loader"].num_workers == given["validate"].num_workers == 1
    assert given["loader"].dataset.shift > 0 and given["validate"].dataset.shift == 0
    # 67 images: the last three would not pair up.
    updates = [json.loads(line) for line in (tmp_path / "log" / "updates.jsonl").open()]
    assert [update["images"] for update in updates] == [32, 32] * 2
    assert st.load(tmp_path / "a.safetensors").about["epochs"] == 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--training.optimizer=adamv", ("adamw", "not 'adamv'")),
        ("--training.optimizer_options={'nesterov': true}", ("adamw has no setting nesterov",)),
        ("--training.schedule=cosin", ("must be one of constant, cosine",)),
        ("--training.momentum=0.5", ("momentum must be None for adamw",)),
        ("--rule=SLTTT", ("did you mean SLTT?",)),
        ("--build.norm=tebn", ("one of SharedBN, TDBN, TEBN",)),
        ("--build.neuron=PSN", ("ParallelNeuron",)),
        ("--calibrate=Triangel", ("did you mean Triangle?",)),
        ("--checkpoint_every=0", ("checkpoint_every must be at least 1",)),
        ("--augment=rand-m9", ("colour images", "augment=True")),
        ("--tensorboard=board", ("pip install 'spiketune[tensorboard]'",)),
    ],
)
def test_a_wrong_option_is_said_in_one_line(
    file: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(options(file, tmp_path / "a.safetensors", option))
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert len([line for line in error.splitlines() if line.startswith("spiketune: ")]) == 1
    assert all(word in error for word in words), error


def test_two_processes_write_one_network(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    where = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "spiketune"]
    done = subprocess.run(
        [
            *torchrun, *where, *options(file, out, f"--log_to={tmp_path / 'log'}"),
            "--unfold=true", "--calibrate=Triangle",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2: loss") == 1 and done.stdout.count("saved as") == 1
    epochs = [json.loads(line) for line in (tmp_path / "log" / "epochs.jsonl").open()]
    assert [epoch["images"] for epoch in epochs] == [68, 68]  # 67, and one to make them even
    assert st.load(out).about["training_images"] == 68


def test_the_bar_shows_loss_accuracy_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()

    def on_a_terminal(**settings: Any) -> Any:
        return tqdm(**{**settings, "disable": False, "file": shown, "mininterval": 0, "ncols": 150})

    def told(update: int, epoch: int, batch: int, loss: float, accuracy: float) -> Update:
        return Update(
            update=update, epoch=epoch, batch=batch, batches=4, images=10, loss=loss,
            accuracy=accuracy, learning_rate=0.1, gradient_norm=1.0, seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr(progress, "tqdm", on_a_terminal)
    with progress.training_bar("tuning", epochs=3) as on_batch:
        on_batch(told(6, 2, 2, 4.0, 0.1))  # resumed in the second epoch
        on_batch(told(7, 2, 3, 2.0, 0.3))
        on_batch(told(8, 2, 4, 0.0, 0.2))
        on_batch(told(9, 3, 1, 1.0, 0.9))
    lines = shown.getvalue().split("\r")
    means = [
        "loss 4.000, accuracy 10.0%",
        "loss 3.000, accuracy 20.0%",
        "loss 2.000, accuracy 20.0%",
    ]
    for mean in (*means, "loss 1.000, accuracy 90.0%"):
        assert any(mean in line for line in lines), mean
    last = next(line for line in lines if "loss 1.000" in line)
    assert "9/12" in last and "epoch 3/3" in last and "<" in last and "?" not in last
