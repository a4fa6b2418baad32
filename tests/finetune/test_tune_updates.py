"""What makes an update: several batches, mixed images, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_loader  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from spiketune.finetune import (
    Batch,
    Learn,
    Outcome,
    Rule,
    SurrogateBPTT,
    Task,
    Training,
    TuneError,
    Update,
    register_rule,
    tune,
)
from spiketune.finetune.rules import outputs
from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
RULE = SurrogateBPTT()
SEEN: list[Batch] = []


@dataclass(frozen=True, kw_only=True)
class Look(Rule):
    """Learn plainly, and remember what there was to learn from."""


@register_rule(Look)
def look(snn: SpikingNetwork, rule: Look, task: Task) -> Learn:
    SEEN.clear()

    def learn(batch: Batch) -> Outcome:
        SEEN.append(batch)
        sent = outputs(snn, batch.images, task.steps)
        loss = task.criterion(sent, batch)
        task.backward(loss)
        return Outcome(loss.detach(), snn.read(sent.detach()))

    return learn


def apart(one: SpikingNetwork, other: SpikingNetwork) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def cut(data: Data, *sizes: int) -> list[Data]:
    """The same images in batches of these sizes."""
    return list(zip(data[0].split(sizes), data[1].split(sizes), strict=True))


@pytest.mark.parametrize(
    ("accumulate", "small", "large"),
    [
        (2, (16, 16, 16, 16, 16), (32, 32, 16)),
        (3, (10, 6, 16, 4, 20, 24), (32, 48)),
        (7, (40, 30, 10), (80,)),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_are_one_large_batch(
    build: Build,
    data: Data,
    accumulate: int,
    small: tuple[int, ...],
    large: tuple[int, ...],
    optimizer: str,
) -> None:
    data = data[0].double(), data[1]
    settings: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 0.05}
    parts, whole = build("lif").double(), build("lif").double()
    start = build("lif").double()
    told: list[Update] = []
    one = tune(
        parts, cut(data, *small), RULE, steps=3, epochs=3, on_batch=told.append,
        training=Training(accumulate=accumulate, **settings),
    )  # fmt: skip
    other = tune(
        whole, cut(data, *large), RULE, steps=3, epochs=3, training=Training(**settings)
    )  # fmt: skip
    assert apart(parts, whole) < 1e-6 < 1e-3 < apart(parts, start)
    for mine, theirs in zip(one.epochs, other.epochs, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-9)
        assert (mine.accuracy, mine.images) == (theirs.accuracy, 80)
    assert [update.images for update in told] == [*large] * 3
    assert [update.update for update in told] == list(range(1, 3 * len(large) + 1))


def test_averaged_weights_are_validated_and_remain(build: Build, data: Data) -> None:
    snn, decay = build(), 0.7
    average: list[np.ndarray[Any, Any]] = []
    raw: list[np.ndarray[Any, Any]] = []

    def follow(done: Update) -> None:
        """The average as its equation has it, in NumPy."""
        now = [value.detach().numpy().copy() for value in snn.parameters()]
        share = min(decay, 1 - done.update ** (-2 / 3))
        before = average or now
        mixed = [share * a + (1 - share) * b for a, b in zip(before, now, strict=True)]
        average[:], raw[:] = mixed, now

    history = tune(
        snn, cut(data, 40, 40), RULE, steps=3, epochs=4, on_batch=follow, validate=[data],
        training=Training(ema=decay, learning_rate=0.02),
    )  # fmt: skip
    found = [value.detach().numpy() for value in snn.parameters()]
    for mine, theirs in zip(found, average, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert max(np.abs(a - b).max() for a, b in zip(found, raw, strict=True)) > 1e-3
    with torch.no_grad():
        share = float((snn(data[0]).argmax(1) == data[1]).float().mean())
    assert history.epochs[-1].validation == pytest.approx(share)


def test_mixup_mixes_images_and_labels_alike(build: Build, data: Data) -> None:
    kept = data[0].clone(), data[1].clone()
    training = Training(mixup=1.0, label_smoothing=0.1)
    history = tune(build(), cut(data, 40, 40), Look(), steps=2, epochs=2, training=training)
    assert torch.equal(data[0], kept[0]) and torch.equal(data[1], kept[1])
    shares = set()
    for number, batch in enumerate(SEEN):
        images, labels = cut(data, 40, 40)[number % 2]
        hot = torch.nn.functional.one_hot(labels, 10).float()
        # Every image but its partner's label has weight λ: solve for it in one place.
        other = hot.flip(0)
        differing = (hot - other).abs().sum(1) > 0
        lam = float(batch.labels[differing][hot[differing] == 1].mean())
        shares.add(round(lam, 6))
        torch.testing.assert_close(batch.labels, lam * hot + (1 - lam) * other)
        torch.testing.assert_close(batch.images, lam * images + (1 - lam) * images.flip(0))
    assert len(shares) == 4 and all(0 < share < 1 for share in shares)
    assert 0 <= history.epochs[-1].accuracy <= 1


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_cutmix_pastes_the_share_that_the_labels_say(build: Build, data: Data, mode: str) -> None:
    training = Training(cutmix=1.0, mix_options={"mode": mode})
    tune(build(), [data], Look(), steps=2, epochs=3, training=training)
    pasted = False
    for batch in SEEN:
        own = (batch.images == data[0]).flatten(1).float().mean(1)
        foreign = (batch.images == data[0].flip(0)).flatten(1).float().mean(1)
        torch.testing.assert_close(own + foreign, torch.ones(80))
        distinct = data[1] != data[1].flip(0)
        weight = batch.labels[torch.arange(80), data[1]]
        torch.testing.assert_close(weight[distinct], own[distinct])
        pasted |= bool((own < 1).any())
    assert pasted


def test_erasing_replaces_a_box_by_noise(build: Build, data: Data) -> None:
    kept = data[0].clone()
    tune(build(), [data], Look(), steps=2, epochs=1, training=Training(erase=0.5))
    changed = SEEN[0].images != data[0]
    assert torch.equal(data[0], kept) and torch.equal(SEEN[0].labels, data[1])
    assert 20 < int(changed.flatten(1).any(1).sum()) < 60
    for image in changed[changed.flatten(1).any(1)]:
        rows, columns = image[0].any(1).nonzero(), image[0].any(0).nonzero()
        box = image[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()


def test_labels_that_the_loader_mixes(build: Build, data: Data) -> None:
    hot = torch.nn.functional.one_hot(data[1], 10).float()
    plain, mixed = build(), build()
    one = tune(plain, [data], RULE, steps=2, epochs=2)
    other = tune(mixed, [(data[0], hot)], RULE, steps=2, epochs=2)
    assert apart(plain, mixed) < 1e-6
    assert one.epochs[1].accuracy == other.epochs[1].accuracy


@pytest.mark.parametrize(
    ("training", "labels", "message"),
    [
        (Training(mixup=0.2), torch.arange(5), "batch 1: mixup pairs images.* this one has 5"),
        (Training(mixup=0.2), torch.eye(10)[:5], "must be even"),
        (Training(), torch.eye(9)[:5], r"mixed labels of shape \[5, 9\]"),
        (Training(), torch.eye(10)[:5] * 2, "add up to 1"),
        (Training(), torch.full((5, 10), torch.nan), "add up to 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_mixed_is_refused(
    build: Build, data: Data, training: Training, labels: Tensor, message: str
) -> None:
    with pytest.raises(TuneError, match=message):
        tune(build(), [(data[0][:5], labels)], RULE, steps=1, epochs=1, training=training)
    with pytest.raises(TuneError, match="mixes its labels already"):
        tune(
            build(), [(data[0][:4], torch.eye(10)[:4])], RULE, steps=1, epochs=1,
            training=Training(cutmix=1.0),
        )  # fmt: skip


class Pictures(Dataset[tuple[Any, int]]):
    """Greyscale pictures as timm's transforms take them."""

    def __init__(self, data: Data) -> None:
        self.data, self.transform = data, None

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Any, int]:
        grey = (self.data[0][index, 0].clamp(0, 1) * 255).byte().numpy()
        image: Any = Image.fromarray(grey).convert("RGB")
        if self.transform is not None:
            image = self.transform(image)[:1]
        return image, int(self.data[1][index])


def test_timms_loader_augments_and_repeats_itself(build: Build, data: Data) -> None:
    def loader() -> Any:
        return create_loader(
            Pictures(data), (3, 8, 8), 8, is_training=True, use_prefetcher=False, num_workers=0,
            auto_augment="rand-m5-mstd0.5", re_prob=0.5, persistent_workers=False,
        )  # fmt: skip

    shown = []
    for seed in (0, 0, 1):
        tune(build(), loader(), Look(), steps=1, epochs=2, seed=seed)
        shown.append(torch.cat([batch.images for batch in SEEN]))
    assert shown[0].shape == (48, 1, 8, 8)
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0][:24].sum((1, 2, 3)).sort()[0],
                           shown[0][24:].sum((1, 2, 3)).sort()[0])  # fmt: skip


def test_the_callers_numpy_generator_is_kept(build: Build, data: Data) -> None:
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)
    tune(build(), loader, RULE, steps=1, epochs=1, training=Training(mixup=0.5))
    assert (np.random.rand(3) == expected).all()
