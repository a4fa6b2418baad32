"""The sweep against plain loops, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import spiketune as st
from spiketune.compare import INT8, Meter, sweep
from spiketune.snn import SignedIF, SpiketuneError, SpikingNetwork, costs
from spiketune.snn.macs import count_macs

MakeSpiking = Callable[..., SpikingNetwork]
Images = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def test_rows_equal_separate_runs_at_each_budget(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    snn = spiking(classifier, images[0][0], SignedIF)
    table = sweep({"snn": snn, "ann": classifier}, images, steps=10)
    assert table.models == ("snn", "ann") and table.reference == "ann"
    assert table.budgets == tuple(range(1, 11)) and len(table.rows) == 20
    for steps in (1, 3, 8, 10):
        row = table.row("snn", steps)
        right = agreed = 0
        for x, y in images:
            answer = snn.unroll(x, steps)[-1].argmax(1)
            right += int((answer == y).sum())
            agreed += int((answer == classifier(x).argmax(1)).sum())
        meter = Meter(snn, steps)
        for x, _ in images:
            meter.unroll(x)
        assert row.top1 == 100 * right / 8 and row.agreement == 100 * agreed / 8
        assert row.accumulates == meter.accumulates(steps)
        assert row.spikes_per_neuron == meter.spikes_per_neuron(steps)
        assert row.macs == 4 * 22**2 and row.kind == "ternary" and row.images == 8
        assert row.energy_nj == pytest.approx((4 * 22**2 * 4.6 + row.accumulates * 0.9) / 1000)


def test_an_ann_repeats_its_answer(classifier: nn.Module, images: Images) -> None:
    table = sweep({"ann": classifier}, images, steps=[4, 1, 4], energy=INT8)
    first, last = table.rows
    assert (first.steps, last.steps) == (1, 4) and first.top1 == last.top1
    assert first.agreement == 100 and first.energy_ratio == 1 and first.kind == "ann"
    assert first.accumulates == 0 and first.spikes_per_neuron is None
    assert first.energy_nj == pytest.approx(first.macs * 0.23e-3)


def test_flop_counter_and_fixed_costs_agree(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    x = images[0][0]
    assert count_macs(classifier, x[:1]) == costs(spiking(classifier, x)).ann_macs
    # by hand: 3x3 on 8x8, 3x3 in steps of two on 8x8 (one border each way), and a linear layer
    assert count_macs(classifier, x[:1]) == 4 * 22**2 + 6 * 4 * 11**2 + 96 * 10


def test_pruned_weights_count_neither_as_spikes_nor_as_values(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    x = images[0][0]
    classifier[5].weight.data[:, ::2] = 0
    assert count_macs(classifier, x[:1]) == 4 * 22**2 + 6 * 4 * 11**2 + 48 * 10
    assert count_macs(classifier, x[:1]) == costs(spiking(classifier, x)).ann_macs


def test_without_an_ann_there_is_nothing_to_agree_with(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    table = sweep({"snn": spiking(classifier, images[0][0])}, images, steps=2)
    assert table.reference is None
    assert table.rows[0].agreement is None and table.rows[0].energy_ratio is None


def test_a_spiking_reference_counts_with_its_last_budget(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    snn = spiking(classifier, images[0][0])
    table = sweep({"ann": classifier, "snn": snn}, images, steps=6, reference="snn")
    assert table.row("snn", 6).agreement == 100 and table.row("snn", 6).energy_ratio == 1
    assert table.row("ann", 1).energy_ratio == pytest.approx(
        table.row("ann", 1).energy_nj / table.row("snn", 6).energy_nj
    )


def test_models_are_left_as_they_were(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    snn = spiking(classifier, images[0][0]).train()
    classifier.train()
    classifier[1].eval()  # a mixed state, as frozen layers have it
    before = [m.training for m in (*classifier.modules(), *snn.modules())]
    values = [p.clone() for p in (*classifier.parameters(), *snn.parameters())]
    sweep({"ann": classifier, "snn": snn}, images, steps=2, device="cpu")
    assert [m.training for m in (*classifier.modules(), *snn.modules())] == before
    after = [*classifier.parameters(), *snn.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(values, after, strict=True))


def test_training_flags_return_after_an_error(classifier: nn.Module, images: Images) -> None:
    classifier.train()
    with pytest.raises(SpiketuneError):
        sweep({"ann": classifier}, [(images[0][0], images[0][1] + 10)], steps=1)
    assert classifier.training


def test_how_it_was_made_comes_from_the_network(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    about: dict[str, str | int | float] = {
        "method": "mine", "calibration_images": 64, "seconds": 2, "spikes": "graded",
    }  # fmt: skip
    row = sweep({"snn": spiking(classifier, images[0][0], about=about)}, images, steps=1).rows[0]
    assert (row.method, row.calibration_images, row.kind) == ("mine", 64, "graded")
    assert row.preparation_seconds == 2.0 and row.epochs is None and row.tuned_steps is None


def test_time_memory_and_progress(classifier: nn.Module, images: Images) -> None:
    calls: list[tuple[str, int, int]] = []
    table = sweep({"ann": classifier}, images, steps=1, progress=lambda *call: calls.append(call))
    row = table.rows[0]
    assert calls == [("ann", 1, 2), ("ann", 2, 2)]
    assert row.seconds > 0 and row.images_per_second == pytest.approx(8 / row.seconds)
    assert row.peak_memory_mb is None or row.peak_memory_mb >= 0


def test_memory_is_that_of_the_answers_alone() -> None:
    class Hungry(nn.Module):
        """Takes 200 MB for one image, as the count of operations does, and 32 MB for more."""

        def forward(self, x: Tensor) -> Tensor:
            return _fill(200 if len(x) == 1 else 32)[:1].expand(len(x), 10)

    class Reader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(2):
                _fill(150)
                yield X, Y

    peak = sweep({"a": Hungry()}, Reader(), steps=1).rows[0].peak_memory_mb
    assert peak is None or 25 < peak < 60


def _fill(megabytes: int) -> Tensor:
    block = torch.zeros(megabytes * 250_000).add_(1)
    time.sleep(0.02)  # long enough to be seen
    return block[:1].clone()


def test_a_data_loader_is_read_once_a_model(classifier: nn.Module) -> None:
    class Counting(DataLoader[Any]):
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return super().__iter__()

    data = TensorDataset(torch.rand(8, 1, 8, 8), torch.randint(10, (8,)), torch.zeros(8))
    loader = Counting(data, batch_size=3)
    sweep({"a": classifier, "b": classifier}, loader, steps=1)
    assert loader.passes == 2


class NaN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 10), float("nan"))


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


def pairs(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    yield from images


X, Y = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("models", "loader", "steps", "message"),
    [
        ({}, [(X, Y)], 1, "no models to compare"),
        ({"a": Constant()}, [], 1, "the loader is empty"),
        ({"a": Constant()}, [(X[:0], Y[:0])], 1, "the loader is empty"),
        ({"a": Constant()}, [(X, Y)], 0, "steps must be at least 1, not 0"),
        ({"a": Constant()}, [(X, Y)], [], "steps must be at least 1"),
        ({"a": Constant()}, [(X, Y)], [4, -1], "steps must be at least 1"),
        ({"a": Constant()}, [(X, Y + 9)], 1, "labels run from 9 to 10, but 'a' answers 10"),
        ({"a": Constant()}, [(X, Y - 1)], 1, "labels run from -1 to 0"),
        ({"bad": NaN()}, [(X, Y)], 1, "'bad' answers NaN"),
        ({"a": nn.Identity()}, [(X, Y)], 1, "'a' answers 2 images with shape"),
        ({"a": Constant()}, [X], 1, "a batch must be .* gave a Tensor"),
        ({"a": Constant()}, [{"x": X, "y": Y}], 1, "gave a dict"),
        ({"a": Constant()}, [(X, [0, 1])], 1, "gave a tuple of Tensor, list"),
        ({"a": Constant()}, [(X, torch.eye(2))], 1, "class indices, not one-hot"),
        ({"a": Constant()}, [(X, Y[:1])], 1, "one whole number an image"),
        ({"a": Constant()}, iter([(X, Y)]), 1, "one-shot iterator"),
        ({"a": Constant()}, pairs([(X, Y)]), 1, "one-shot iterator"),
        ({"a": lambda x: x}, [(X, Y)], 1, "'a' is a function, not a network"),
    ],
)
def test_refuses(models: Any, loader: Any, steps: Any, message: str) -> None:
    with pytest.raises(SpiketuneError, match=message):
        sweep(models, loader, steps)


@pytest.mark.parametrize(
    ("how", "steps", "fits"),
    [
        ({"neuron": st.ParallelNeuron()}, [8], False),
        ({"neuron": st.ParallelNeuron()}, [1, 2], False),
        ({"neuron": st.ParallelNeuron()}, 4, True),
        ({"norm": st.TEBN()}, 5, False),
        ({"norm": st.TEBN()}, 3, True),
    ],
    ids=str,
)
def test_a_network_made_for_other_steps_is_refused_before_any_runs(
    how: Any, steps: Any, fits: bool
) -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU())
    models = {"dense": Constant(), "one": st.twin(ann, 4, (1, 8, 8), **how).eval()}
    told: list[str] = []
    if fits:
        sweep(models, [(X, Y)], steps)
        return
    with pytest.raises(SpiketuneError, match=r"^'one' has .* made for 4 steps .*--steps 4"):
        sweep(models, [(X, Y)], steps, progress=lambda name, *_: told.append(name))
    assert not told


def test_refuses_an_unknown_reference() -> None:
    with pytest.raises(SpiketuneError, match="no model is called 'b'; choose from a"):
        sweep({"a": Constant()}, [(X, Y)], 1, reference="b")


def test_refuses_a_wrapped_spiking_network(
    spiking: MakeSpiking, classifier: nn.Module, images: Images
) -> None:
    wrapped = Wrapped(spiking(classifier, images[0][0]))
    with pytest.raises(SpiketuneError, match=r"'w' wraps a spiking network \(inner\)"):
        sweep({"w": wrapped}, images, 1)


def test_refuses_a_loader_that_shuffles() -> None:
    data = TensorDataset(torch.rand(64, 1, 8, 8), torch.zeros(64, dtype=torch.long))
    loader = DataLoader(data, batch_size=16, shuffle=True)
    with pytest.raises(SpiketuneError, match="turn off shuffling"):
        sweep({"a": Constant(), "b": Constant()}, loader, 1)


def test_refuses_a_loader_that_grows_or_shrinks() -> None:
    class Uneven:
        def __init__(self, lengths: list[int]) -> None:
            self.lengths = lengths

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(X, Y)] * self.lengths.pop(0))

    for lengths in ([2, 1], [1, 2]):
        with pytest.raises(SpiketuneError, match="other images"):
            sweep({"a": Constant(), "b": Constant()}, Uneven(lengths), 1)
