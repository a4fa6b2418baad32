"""Losses of counts and of trains, against numbers by hand and filters written as sums."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Batch, Loss, SpikeCount, SpikeTrain, TuneError
from spiketune.finetune.losses import Objective
from spiketune.snn import SpikingNetwork


def network(tau: float | None = None) -> SpikingNetwork:
    ann = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    snn = st.twin(ann, 5, (4,))
    if tau is not None:
        st.add_synapses(snn, tau, output=True)
    return snn


def value(
    loss: Loss, outputs: Tensor, labels: Tensor, *, tau: float | None = None, **settings: Any
) -> Tensor:
    taught = settings.pop("taught", None)
    training = st.Training(loss=loss, **settings)
    with Objective(network(tau), training, steps=len(outputs)) as criterion:
        return criterion(outputs, Batch(torch.zeros(len(labels), 4), labels, taught))


def spikes() -> Tensor:
    """Two images, three classes, five steps; counts (3, 1, 0) and (0, 5, 2)."""
    first = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    second = [[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 1]]
    return torch.tensor([first, second], dtype=torch.float64).transpose(0, 1)


def test_counts_are_pulled_to_two_numbers() -> None:
    labels = torch.tensor([0, 2])
    # Errors (-1, 0, -1) of the first image and (-1, 4, -2) of the second.
    loss = SpikeCount(hit=4, miss=1)
    assert value(loss, spikes(), labels).item() == (1 + 1 + 1 + 16 + 4) / 4
    each = SpikeCount(hit=4, miss=1, per_step=True)
    assert value(each, spikes(), labels).item() == pytest.approx(23 / 4 / 5)
    margin = SpikeCount(hit=4, miss=1, margin=1)
    assert value(margin, spikes(), labels).item() == (16 + 4) / 4


def test_a_count_s_error_goes_to_every_step_and_none_within_the_margin() -> None:
    sent = spikes().requires_grad_()
    value(SpikeCount(hit=4, miss=1, margin=1), sent, torch.tensor([0, 2])).backward()
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, -1.0]], dtype=torch.float64)
    assert sent.grad is not None
    assert torch.equal(sent.grad, expected.expand(5, 2, 3))


def test_mixed_labels_have_targets_between() -> None:
    shares = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    found = value(SpikeCount(hit=4, miss=0), spikes(), shares)
    assert found.item() == (0 + 0 + 0 + 0 + 25 + 4) / 4
    pure, mixed = (
        value(SpikeTrain(tau=2.0), spikes(), labels)
        for labels in (torch.tensor([0, 2]), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    )
    assert torch.equal(pure, mixed)


def filtered(train: Any, kernel: list[float]) -> Any:
    """Filter one train by the sum over its spikes."""
    return np.array([
        sum(kernel[t - k] * train[k] for k in range(t + 1)) for t in range(len(train))
    ])  # fmt: skip


KERNELS = {
    "low_pass": [(1 / 3) * (2 / 3) ** n for n in range(5)],
    "alpha": [n / 3 * math.exp(1 - n / 3) for n in range(5)],
}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("kernel", ["low_pass", "alpha"])
def test_trains_are_compared_filtered(kernel: Any, passes: int) -> None:
    loss = SpikeTrain(tau=3.0, kernel=kernel, passes=passes, hit=(0, 1), miss=(0, 0, 0, 1))
    total = 0.0
    for image, label in enumerate((0, 2)):
        for k in range(3):
            goal = np.array([0, 1, 0, 1, 0] if k == label else [0, 0, 0, 1, 0], dtype=float)
            for _ in range(passes):
                goal = filtered(goal, KERNELS[kernel])
            sent = filtered(spikes()[:, image, k].numpy(), KERNELS[kernel])
            total += float(((sent - goal) ** 2).sum())
    found = value(loss, spikes(), torch.tensor([0, 2]))
    assert found.item() == pytest.approx(total / 2 / 2)


def test_a_network_that_filters_its_answer_needs_no_filter() -> None:
    outputs, labels = spikes() * 0.3, torch.tensor([1, 0])
    found = value(SpikeTrain(hit=(0, 1, 1, 1, 1)), outputs, labels, tau=3.0)
    goal = torch.as_tensor(filtered([0, 1, 1, 1, 1], KERNELS["low_pass"]))
    wanted = torch.zeros(5, 2, 3, dtype=torch.float64)
    wanted[:, 0, 1] = wanted[:, 1, 0] = goal
    assert found.item() == pytest.approx(((outputs - wanted) ** 2).sum().item() / 4)
    plain = value(SpikeTrain(), spikes(), labels)  # nothing is filtered: wrong spikes are counted
    wrong = (3 + 4) / 2 + (5 + 5 + 2) / 2
    assert plain.item() == pytest.approx(wrong / 2)


def test_its_gradient_is_that_of_a_finite_difference() -> None:
    outputs = spikes() + 0.1 * torch.randn(5, 2, 3, dtype=torch.float64)
    batch, snn = Batch(torch.zeros(2, 4), torch.tensor([0, 2])), network()
    alpha = SpikeTrain(tau=2.0, kernel="alpha")
    for loss in (SpikeTrain(tau=3.0), alpha, SpikeCount(hit=3, miss=1)):
        with Objective(snn, st.Training(loss=loss), steps=5) as criterion:
            leaf = outputs.clone().requires_grad_()
            assert torch.autograd.gradcheck(partial(criterion, batch=batch), leaf)


def test_a_teacher_is_weighed_against_the_labels() -> None:
    taught, labels = torch.randn(2, 3), torch.tensor([0, 2])
    loss = SpikeCount(hit=4, miss=1)
    both = value(loss, spikes().float(), labels, taught=taught, distillation=0.25)
    alone = value(loss, spikes().float(), labels, taught=taught, distillation=1.0)
    assert both.item() == pytest.approx(0.75 * 23 / 4 + 0.25 * alone.item())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SpikeCount(hit=2, miss=2), "tell no class from another"),
        (lambda: SpikeCount(hit=math.nan, miss=2), "tell no class from another"),
        (lambda: SpikeCount(hit=2, miss=0, margin=-1), "margin must be 0 or more"),
        (lambda: SpikeCount(hit="12", miss=2), "tell no class from another"),  # type: ignore[arg-type]
        (lambda: SpikeCount(hit=2, miss=0, margin=math.inf), "margin must be 0 or more"),
        (lambda: SpikeTrain(hit=1), "hit must be the spikes of some steps"),  # type: ignore[arg-type]
        (lambda: SpikeTrain(hit=(math.nan,)), "hit must be the spikes of some steps"),
        (lambda: SpikeTrain(miss="00"), "miss must be the spikes of some steps"),  # type: ignore[arg-type]
        (lambda: SpikeTrain(tau="3"), "tau must be at least 1"),  # type: ignore[arg-type]
        (lambda: SpikeTrain(tau=0.0, kernel="alpha"), "tau must be above 0"),
        (lambda: SpikeTrain(hit=()), "tell no class from another"),
        (lambda: SpikeTrain(hit=(0,)), "tell no class from another"),
        (lambda: SpikeTrain(passes=3), "passes must be 1 or 2"),
        (lambda: SpikeTrain(tau=0.5), "tau must be at least 1"),
        (lambda: SpikeTrain(kernel="box"), "kernel must be low_pass or alpha"),  # type: ignore[arg-type]
        (lambda: SpikeTrain(kernel="alpha"), "needs a time constant"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, said: str) -> None:
    with pytest.raises(TuneError, match=said):
        make()


@pytest.mark.parametrize(
    ("loss", "settings", "tau", "said"),
    [
        (SpikeCount(hit=4, miss=1), {"label_smoothing": 0.1}, None, "label_smoothing=0.1"),
        (SpikeTrain(), {"label_smoothing": 0.1}, None, "label_smoothing=0.1"),
        (SpikeTrain(tau=2.0), {}, 3.0, "filters its answer already"),
        (SpikeTrain(passes=2), {}, None, "nothing is filtered here"),
    ],
)
def test_what_would_do_nothing_is_refused(
    loss: Loss, settings: Any, tau: float | None, said: str
) -> None:
    with pytest.raises(TuneError, match=said):
        value(loss, spikes(), torch.tensor([0, 2]), tau=tau, **settings)
