"""Early exit against the plain run, a closed form and NumPy; and what it refuses."""

from __future__ import annotations

from math import floor, inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exit_networks import STATES, Joining, TokensFirst, Turning, Windows, odd_state, of
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_networks import Residual, dyadic, dyadic_images, spiking
from torch import Tensor, nn

from spiketune.snn import (
    IF,
    PSN,
    Delayed,
    EarlyExit,
    Mean,
    Membrane,
    Neuron,
    Readout,
    SignedIF,
    SpiketuneError,
    SpikingNetwork,
    StorageError,
)
from spiketune.snn.early_exit import confidence
from spiketune.snn.rows import Rows

STEPS = 11
quick = settings(max_examples=60, deadline=None, derandomize=True)


def expected(
    snn: SpikingNetwork, x: Tensor, rule: EarlyExit
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return answers and steps by a loop over images and steps, in NumPy."""
    with torch.no_grad():
        o = torch.cat(list(snn.outputs(x, rule.steps))).numpy()
        curve = snn.unroll(x, rule.steps).numpy()
    answers, used = [], []
    for image in range(len(x)):
        for t in range(rule.first, rule.steps + 1):
            if (t - rule.first) % rule.every and t < rule.steps:
                continue
            total = sum(o[k, image] for k in range(t))
            best = int(np.argmax(curve[t - 1, image]))
            if total[best] - np.delete(total, best).max() >= rule.confidence or t == rule.steps:
                break
        answers.append(curve[t - 1, image])
        used.append(t)
    return np.stack(answers), np.array(used)


def agrees(snn: SpikingNetwork, x: Tensor, rule: EarlyExit) -> set[int]:
    """Check every answer and step bit for bit, and return the steps that occur."""
    answers, steps = rule(snn, x)
    wanted, used = expected(snn, x, rule)
    assert steps.tolist() == used.tolist()
    assert np.array_equal(answers.numpy(), wanted)
    return set(used.tolist())


@pytest.mark.parametrize("neuron", [IF, SignedIF])
@pytest.mark.parametrize(
    ("readout", "drive"),
    [(Mean(), None), (Mean(), 4), (Membrane(), None), (Delayed(start=3), None)],
    ids=["mean", "drive", "membrane", "delayed"],
)
def test_each_image_gets_the_plain_answer_of_its_step(
    neuron: type[Neuron], readout: Readout, drive: int | None
) -> None:
    snn = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), neuron, steps=STEPS, drive=drive)
    snn.readout = readout
    x = dyadic_images(40, 1, 8, 8)
    found = set()
    for least in (-1.0, 0.125, 0.5, 1.0, 2.0):
        found |= agrees(snn, x, EarlyExit(confidence=least, steps=STEPS))
        agrees(snn, x, EarlyExit(confidence=least, steps=STEPS, first=2, every=3))
    assert len(found) > 4


def test_an_unreachable_confidence_runs_all_images_to_the_end() -> None:
    snn, x = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8)), dyadic_images(5, 1, 8, 8)
    answers, steps = EarlyExit(confidence=inf, steps=20)(snn, x)
    assert steps.tolist() == [20] * 5 and not answers.requires_grad
    assert torch.equal(answers, snn.unroll(x, 20)[-1])
    answers, steps = EarlyExit(confidence=-1e9, steps=20, first=3)(snn, x)
    assert steps.tolist() == [3] * 5 and torch.equal(answers, snn.unroll(x, 3)[-1])


def test_one_layer_leaves_at_the_step_of_the_closed_form() -> None:
    ann = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    for layer in (ann[0], ann[2]):
        nn.init.eye_(layer.weight)
    x = dyadic_images(50, 2)
    snn = spiking(ann.double().eval(), x, thresholds=(1.0,))
    _, steps = EarlyExit(confidence=3.0, steps=100)(snn, x)
    for (a, b), used in zip(x.tolist(), steps.tolist(), strict=True):
        # A neuron of threshold 1 that starts at 1/2 has sent floor(t c + 1/2) after t steps.
        lead = [abs(floor(t * a + 0.5) - floor(t * b + 0.5)) for t in range(1, 101)]
        assert used == next((t for t, so_far in enumerate(lead, 1) if so_far >= 3), 100)
    assert len(set(steps.tolist())) > 10


@pytest.mark.parametrize("name", STATES)
def test_states_of_every_kind_go_with_their_images(name: str) -> None:
    """Counts, tracers, sums of functions, norms over time, images as spikes, folded spikes."""
    snn, x = STATES[name]()
    curve = snn.unroll(x, 8).detach()
    top = curve.topk(2).values
    leads = (top[..., 0] - top[..., 1]) * torch.arange(1, 9).clamp_max(snn.drive or 8).view(-1, 1)
    least = float(leads[3].median())
    answers, steps = EarlyExit(confidence=least, steps=8)(snn, x)
    assert len(set(steps.tolist())) > 1
    torch.testing.assert_close(answers, curve[steps - 1, torch.arange(len(x))], rtol=0, atol=1e-9)


@pytest.mark.parametrize("net", [Windows, TokensFirst])
def test_rows_that_an_image_has_many_of_go_with_it(net: type[nn.Module]) -> None:
    ann, x = dyadic(net()), dyadic_images(30, 4, 6)
    with torch.no_grad():
        for parameter in ann.parameters():
            parameter.mul_(4)
    snn = spiking(ann, x)
    for _, unit in snn.neurons():  # one threshold: where the images lie second, so do channels not
        unit.threshold = nn.Parameter(x.new_tensor(0.5))
    found = [agrees(snn, x, EarlyExit(confidence=c, steps=STEPS)) for c in (2.0, 4.0, 8.0)]
    assert len(set.union(*found)) > 3


@given(
    outer=st.integers(1, 3), batch=st.integers(1, 5), inner=st.integers(1, 3),
    before=st.integers(0, 2), data=st.data(),
)  # fmt: skip
@quick
def test_taking_rows_is_taking_images(
    outer: int, batch: int, inner: int, before: int, data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, batch - 1), unique=True))
    shape = [*[2] * before, outer * batch * inner, 3]
    value = torch.arange(np.prod(shape)).view(shape)
    one = (*shape[:before], outer * inner, 3)
    taken = Rows(one, before, outer, inner).take(value, torch.tensor(index, dtype=torch.long))
    places = [(o * batch + b) * inner + i
              for o in range(outer) for b in index for i in range(inner)]  # fmt: skip
    assert np.array_equal(taken.numpy(), np.take(value.numpy(), places, axis=before))
    assert Rows(one, before, outer, inner).of(batch) == tuple(shape)


def test_finished_images_are_not_simulated_and_memory_stays_channels_last() -> None:
    snn = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), SignedIF)
    sizes: list[int] = []
    first = next(name for name, _ in snn.neurons())

    def watch(name: str, out: Tensor) -> None:
        if name == first:
            sizes.append(out.shape[1])

    rule = EarlyExit(confidence=0.5, steps=STEPS)
    _, steps = rule(snn, dyadic_images(60, 1, 8, 8), monitor=watch)
    assert sizes == [int((steps > t).sum()) for t in range(len(sizes))]
    assert sizes[0] == 60 and sizes[-1] < 20
    x = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    taken = Rows((3, 2, 2), 0, 1, 1).take(x, torch.tensor([0, 2]))
    assert taken.is_contiguous(memory_format=torch.channels_last)


def test_confidence_is_the_lead_of_the_class_that_is_answered() -> None:
    outputs = torch.tensor([[[0.0, 4.0, 1.0]], [[3.0, 0.0, 0.0]]])
    assert confidence(outputs, outputs.cumsum(0)).tolist() == [[3.0], [1.0]]
    # The answer may be read otherwise than the sums: then the lead is negative.
    assert confidence(outputs, outputs).tolist() == [[3.0], [-1.0]]


def test_a_network_in_training_is_run_in_evaluation_and_comes_back() -> None:
    ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3)).double()
    x = dyadic_images(6, 2)
    snn = spiking(dyadic(ann), x)
    before = snn.unroll(x, 5)[-1]
    snn.train()
    assert torch.equal(EarlyExit(confidence=inf, steps=5)(snn, x).answers, before)
    assert snn.training


def test_what_cannot_stop_or_be_cut_is_refused_by_name() -> None:
    always = EarlyExit(confidence=0.0, steps=4)
    x = dyadic_images(8, 2)
    ann = dyadic(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)))
    whole = spiking(ann, x)
    whole.net.unit_relu = PSN(torch.ones(2).double(), steps=4)
    with pytest.raises(SpiketuneError, match="is a PSN, which computes all its steps at once"):
        always(whole, x)
    with pytest.raises(SpiketuneError, match=r"\[images, classes\]; give a classifier"):
        always(spiking(dyadic(nn.Sequential(nn.Linear(2, 1), nn.ReLU())), x), x)
    with pytest.raises(SpiketuneError, match="not a batch"):
        always(spiking(ann, x), x[0])
    some = EarlyExit(confidence=1.0, steps=9)
    with pytest.raises(SpiketuneError, match=r"^join: .* joined or moved along the batch"):
        some(*of(Joining()))
    with pytest.raises(SpiketuneError, match=r"^turn: .* joined or moved along the batch"):
        some(*of(Turning()))
    with pytest.raises(SpiketuneError, match=r"^1: .* its state \[3\] is not shaped"):
        some(*odd_state())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"confidence": nan, "steps": 4}, "confidence must be a number, .* not nan"),
        ({"confidence": -inf, "steps": 4}, r"confidence must be a number, .* not -inf; fit_exit"),
        ({"confidence": "high", "steps": 4}, "confidence must be a number, .* not high"),
        ({"confidence": 1.0, "steps": 0}, "steps must be a whole number"),
        ({"confidence": 1.0, "steps": 4, "every": 0}, "every must be a whole number"),
        ({"confidence": 1.0, "steps": 4, "first": 5}, "first must not lie beyond the 4 steps"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpiketuneError, match=message):
        EarlyExit(**given)


@pytest.mark.parametrize("least", [2.5, inf])
def test_settings_come_back_from_a_file(least: float, tmp_path: Path) -> None:
    rule = EarlyExit(confidence=least, steps=16, first=2, every=3)
    path = rule.save(tmp_path / "deep" / "exit.json")
    assert EarlyExit.load(path) == rule and [p.name for p in path.parent.iterdir()] == ["exit.json"]
    assert "Infinity" not in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ('{"schema": "spiketune-exit/1", "conf', "not whole JSON"),
        ('{"schema": "spiketune-exit/9"}', "no 'spiketune-exit/1' file"),
        ('{"schema": "spiketune-exit/1", "steps": 4}', "not the fields"),
        ('{"schema": "spiketune-exit/1", "confidence": 1, "steps": 0, "first": 1, "every": 1}',
         "steps must be a whole number"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StorageError, match=message):
        EarlyExit.load(path)
