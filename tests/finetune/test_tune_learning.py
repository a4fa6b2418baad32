"""The trainer learns, keeps its promises about what it leaves alone, and every setting acts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tuning_networks import small_ann

from spiketune.finetune import Epoch, History, SurrogateBPTT, Training, TuneError, Update, tune
from spiketune.snn import IF, LIF, SpikingNetwork, load, read, save

Build = Callable[..., SpikingNetwork]
FAST = Training(learning_rate=5e-3)


def weights(snn: SpikingNetwork) -> Tensor:
    return torch.cat([value.detach().flatten().double() for value in snn.state_dict().values()])


@pytest.mark.parametrize("kind", ["if", "signed", "lif"])
def test_learns_a_task(build: Build, data: tuple[Tensor, Tensor], kind: str) -> None:
    snn = build(kind)
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)
    history = tune(snn, loader, SurrogateBPTT(), steps=4, epochs=12, training=FAST, validate=[data])
    first, last = history.epochs[0], history.epochs[-1]
    assert last.loss < first.loss - 0.2
    assert last.accuracy > 0.85
    assert last.validation is not None and last.validation > 0.85
    with torch.no_grad():
        assert (snn(data[0]).argmax(1) == data[1]).float().mean() == last.validation
    assert snn.steps == 4 and not snn.training
    assert snn.about["tuned_steps"] == 4 and snn.about["epochs"] == 12
    assert snn.about["training_images"] == 80 and snn.about["rule"] == "SurrogateBPTT"


def test_about_adds_up_over_trainings(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build()
    snn.about = {"method": "Ternary(steps=4)", "calibration_images": 80, "seconds": 1.5}
    first = tune(snn, [data], SurrogateBPTT(), steps=4, epochs=2)
    second = tune(snn, [data], SurrogateBPTT(), steps=2, epochs=1, training=FAST)
    seconds = 1.5 + sum(epoch.seconds for epoch in (*first.epochs, *second.epochs))
    assert snn.about.pop("seconds") == pytest.approx(seconds, abs=2e-3)
    assert snn.about == {
        "method": "Ternary(steps=4) + SurrogateBPTT(T=4, 2 epochs, lr 0.001) "
        "+ SurrogateBPTT(T=2, 1 epoch, lr 0.005)",
        "calibration_images": 80, "rule": "SurrogateBPTT", "tuned_steps": 2, "epochs": 3,
        "training_images": 80,
    }  # fmt: skip
    bare = build()
    tune(bare, [data], SurrogateBPTT(), steps=2, epochs=1)
    assert bare.about["method"] == "SurrogateBPTT(T=2, 1 epoch, lr 0.001)"


def test_distillation_brings_the_answers_to_the_teacher(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    teacher = small_ann()
    with torch.no_grad():
        target = teacher(data[0]).softmax(1)

    def distance(distillation: float) -> float:
        snn = build()
        training = Training(learning_rate=5e-3, distillation=distillation)
        tune(snn, [data], SurrogateBPTT(), steps=4, epochs=8, training=training, teacher=teacher)
        with torch.no_grad():
            return float((snn(data[0]).softmax(1) - target).abs().sum())

    assert distance(1.0) < 0.5 * distance(0.0)


def test_the_teacher_is_left_as_it_was(build: Build, data: tuple[Tensor, Tensor]) -> None:
    teacher = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), small_ann()).train()
    teacher[1].eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = [module.training for module in teacher.modules()]
    tune(build(), [data], SurrogateBPTT(), steps=2, epochs=1, teacher=teacher)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_batch_norm_trains(data: tuple[Tensor, Tensor]) -> None:
    net = read(small_ann(), data[0])
    for place, node in enumerate([n for n in net.graph.nodes if "relu" in str(n.target)]):
        source = node.args[0]
        net.add_submodule(f"bn{place}", nn.BatchNorm2d([4, 6][place]))
        net.add_submodule(f"act{place}", LIF(torch.tensor(1.0), leak=0.5))
        with net.graph.inserting_after(node):
            norm = net.graph.call_module(f"bn{place}", (source,))
        with net.graph.inserting_after(norm):
            neuron = net.graph.call_module(f"act{place}", (norm,))
        node.replace_all_uses_with(neuron)
        net.graph.erase_node(node)
    net.recompile()
    snn = SpikingNetwork(net, steps=4, input_shape=(1, 8, 8)).eval()
    history = tune(snn, [data] * 5, SurrogateBPTT(), steps=4, epochs=6, training=FAST)
    assert history.epochs[-1].accuracy > 0.9
    for norm in (m for m in snn.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.num_batches_tracked == 30 and not norm.training
        assert norm.running_mean is not None and norm.running_mean.abs().sum() > 0


def test_a_tuned_network_can_be_saved(
    build: Build, data: tuple[Tensor, Tensor], tmp_path: Any
) -> None:
    snn = build("signed")
    tune(snn, [data], SurrogateBPTT(), steps=3, epochs=1)
    again = load(save(snn, tmp_path / "tuned.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(data[0]), snn(data[0]))
    assert again.about == snn.about and again.steps == 3


def test_thresholds_stay_positive_and_leaks_in_range(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    snn = build("lif")
    start = {name: neuron.threshold.detach().clone() for name, neuron in snn.neurons()}
    for _, neuron in snn.neurons():
        neuron.get_parameter("leak").requires_grad_(True)
    wild = Training(optimizer="sgd", learning_rate=20.0, clip_grad=None, warmup=0)
    tune(snn, [data] * 3, SurrogateBPTT(), steps=3, epochs=2, training=wild)
    moved = False
    for name, neuron in snn.neurons():
        assert (neuron.threshold >= 0.00999 * start[name]).all()
        moved |= bool((neuron.threshold != start[name]).any())
        leak = neuron.get_parameter("leak")
        assert 0 < leak <= 1
    assert moved


def test_the_callers_random_state_is_kept(build: Build, data: tuple[Tensor, Tensor]) -> None:
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tune(build(), loader, SurrogateBPTT(), steps=2, epochs=2, validate=loader)
    assert torch.equal(torch.rand(3), expected)


def test_same_seed_same_result_and_other_seed_another(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)

    def tuned(seed: int) -> Tensor:
        snn = build()
        tune(snn, loader, SurrogateBPTT(), steps=2, epochs=1, seed=seed)
        return weights(snn)

    torch.manual_seed(1)
    first = tuned(0)
    torch.manual_seed(2)
    assert torch.equal(tuned(0), first)
    assert not torch.equal(tuned(1), first)


@pytest.mark.parametrize(
    ("changed", "base"),
    [
        ({"optimizer": "sgd"}, {}),
        ({"learning_rate": 1e-4}, {}),
        ({"weight_decay": 0.5}, {}),
        ({"warmup": 0.5}, {}),
        ({"clip_grad": None}, {"optimizer": "sgd", "clip_grad": 0.01}),
        ({"momentum": 0.5}, {"optimizer": "sgd"}),
        ({"label_smoothing": 0.3}, {}),
        ({"distillation": 0.9}, {}),
        ({"temperature": 5.0}, {}),
    ],
    ids=str,
)
def test_every_setting_acts(
    build: Build, data: tuple[Tensor, Tensor], changed: dict[str, Any], base: dict[str, Any]
) -> None:
    def tuned(settings: dict[str, Any]) -> Tensor:
        snn = build()
        tune(
            snn, [data] * 4, SurrogateBPTT(), steps=2, epochs=1,
            training=Training(**settings), teacher=small_ann(7),
        )  # fmt: skip
        return weights(snn)

    assert (tuned(base | changed) - tuned(base)).abs().max() > 1e-7


def test_only_weights_decay(build: Build, data: tuple[Tensor, Tensor]) -> None:
    def tuned(decay: float) -> dict[str, Tensor]:
        snn = build()
        training = Training(weight_decay=decay, learning_rate=1e-3)
        tune(snn, [data], SurrogateBPTT(), steps=2, epochs=1, training=training)
        return dict(snn.state_dict())

    without, decayed = tuned(0.0), tuned(10.0)
    changed = {name for name in without if not torch.equal(without[name], decayed[name])}
    assert changed == {"net.0.weight", "net.2.weight", "net.5.weight"}


def test_the_rate_warms_up_and_falls(build: Build, data: tuple[Tensor, Tensor]) -> None:
    history = tune(
        build(), [data] * 2, SurrogateBPTT(), steps=2, epochs=5,
        training=Training(learning_rate=1e-3, warmup=0.4),
    )  # fmt: skip
    rates = [epoch.learning_rate for epoch in history.epochs]
    assert rates[0] == pytest.approx(0.4e-3) and rates[1] == pytest.approx(0.8e-3)
    assert max(rates) <= 1e-3 and 0 < rates[-1] < 0.1e-3


def test_callbacks_tell_what_happens(build: Build, data: tuple[Tensor, Tensor]) -> None:
    epochs: list[Epoch] = []
    updates: list[Update] = []
    history = tune(
        build(), [data] * 2, SurrogateBPTT(), steps=2, epochs=2, on_epoch=epochs.append,
        on_batch=updates.append,
    )  # fmt: skip
    assert History(tuple(epochs)) == history
    assert [(u.epoch, u.batch, u.update) for u in updates] == [
        (1, 1, 1), (1, 2, 2), (2, 1, 3), (2, 2, 4),
    ]  # fmt: skip
    first = updates[:2]
    assert history.epochs[0].loss == pytest.approx(sum(u.loss for u in first) / 2)
    assert history.epochs[0].accuracy == pytest.approx(sum(u.accuracy for u in first) / 2)
    assert all(u.images == 80 and u.batches == 2 and u.gradient_norm > 0 for u in updates)
    assert updates[-1].learning_rate == history.epochs[-1].learning_rate
    assert json.loads(json.dumps(asdict(history)))["epochs"][1]["epoch"] == 2


def test_frozen_weights_stay(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build()
    frozen = snn.net.get_parameter("0.weight").requires_grad_(False)
    before = frozen.clone()
    tune(snn, [data], SurrogateBPTT(), steps=2, epochs=1)
    assert torch.equal(frozen, before)


def test_nothing_left_to_train_is_said(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build().requires_grad_(False)
    with pytest.raises(TuneError, match="requires_grad"):
        tune(snn, [data], SurrogateBPTT(train_thresholds=False), steps=2, epochs=1)


def test_bfloat16_trains_close_to_float32(build: Build, data: tuple[Tensor, Tensor]) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        snn = build()
        history = tune(
            snn, [data] * 4, SurrogateBPTT(), steps=2, epochs=3, training=FAST,
            precision=precision,  # type: ignore[arg-type]
        )  # fmt: skip
        losses.append(history.epochs[-1].loss)
        assert all(value.dtype != torch.bfloat16 for value in snn.state_dict().values())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


@pytest.mark.parametrize("shape", [(), (3, 1, 1)])
def test_membranes_stay_float32_under_autocast(shape: tuple[int, ...]) -> None:
    neuron = IF(torch.ones(shape))
    current = torch.rand(4, 2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        short = nn.functional.conv2d(current.flatten(0, 1), torch.eye(3).view(3, 3, 1, 1))
        assert short.dtype == torch.bfloat16
        first = short.unflatten(0, (4, 2))
        assert neuron.start(first).membrane.dtype == torch.float32
        assert neuron(first)[1].membrane.dtype == torch.float32
