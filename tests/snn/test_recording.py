"""Chunks that were compiled or recorded answer as those that run as they stand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from recorder_double import STEPS, Made, made, pair, ways
from snn_networks import dyadic_images, spiking
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import (
    IF,
    Burst,
    Chunks,
    Graded,
    Neuron,
    Program,
    SignedIF,
    TemporalBatchNorm,
    pieces,
    run_by,
)
from spiketune.snn.chunk import Chunk
from spiketune.snn.functions import telescope
from spiketune.snn.recording import recording

pytestmark = [
    pytest.mark.usefixtures("made"),
    pytest.mark.filterwarnings("error:chunks run as they stand"),
]
__all__ = ["made"]


@ways
@pytest.mark.parametrize(("neuron", "drive"), [(SignedIF, 3), (Graded, 3), (Burst, None)])
@torch.no_grad()
def test_answers_are_those_of_single_steps(
    made: Made, way: Chunks, neuron: type[Neuron], drive: int | None
) -> None:
    snn, plain = pair(way, neuron, drive)
    for size in (3, 3, 2, 3, 2):
        x = dyadic_images(size, 1, 8, 8)
        expected = plain.unroll(x, chunk=1)
        assert len(expected.unique()) > STEPS * size
        assert torch.equal(snn.unroll(x), expected)
        assert torch.equal(snn(x), expected[-1])
    before = made.recorded
    assert before > 0
    ran = made.ran
    assert torch.equal(snn.unroll(x), plain.unroll(x, chunk=1))
    assert made.recorded == before and made.ran >= ran + 3


@ways
@torch.no_grad()
def test_batches_that_take_turns_keep_their_states_and_answers(made: Made, way: Chunks) -> None:
    snn, plain = pair(way, SignedIF)
    first, second = dyadic_images(3, 1, 8, 8), dyadic_images(3, 1, 8, 8)
    snn(first)
    runs = [snn.outputs(first, STEPS), snn.outputs(second, STEPS)]
    found = list(zip(*runs, strict=True))  # all kept while others run
    assert made.ran == 6
    for parts, x in zip(zip(*found, strict=True), (first, second), strict=True):
        assert torch.equal(torch.cat(parts), torch.cat(list(plain.outputs(x, STEPS))))


@ways
@torch.no_grad()
def test_autocast_has_recordings_of_its_own(way: Chunks) -> None:
    # A neuron comes first, which sees the same with autocast and without.
    layers = (nn.ReLU(), nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.rand(3, 1, 8, 8)
    snn = spiking(nn.Sequential(*layers).eval(), x, IF, steps=STEPS)
    for parameter in snn.parameters():  # what autocast casts it keeps only if this trains
        parameter.requires_grad_(parameter.dim() == 2)
    plain = copy.deepcopy(snn)
    run_by(snn, way)
    for _ in range(2):
        single = plain(x)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                assert not torch.equal(plain(x), single)
                assert torch.equal(snn(x), plain(x))
        assert torch.equal(snn(x), single)
        for one in (snn, plain):
            for parameter in one.parameters():
                parameter.mul_(1.5)


@ways
@pytest.mark.filterwarnings("error")
def test_inference_mode_has_recordings_of_its_own(made: Made, way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            for _ in range(3):
                assert torch.equal(snn(x), plain(x))
    assert made.ran


@torch.no_grad()
def test_values_are_let_go_after_their_last_use(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    answer = Program.answer

    def noting(program: Program, chunk: Chunk) -> Any:
        left.append(len(chunk.values))
        return answer(program, chunk)

    monkeypatch.setattr(Program, "answer", noting)
    monkeypatch.setattr(pieces, "CPU", 1)
    monkeypatch.setattr(pieces, "NECK", 1)
    snn, _ = pair(st.CompiledChunks())
    for _ in range(2):
        snn(dyadic_images(3, 1, 8, 8))
    assert left == [1] * 6 and made.functions > 2  # of several parts


@ways
@torch.no_grad()
def test_a_chunk_of_the_users_length_is_recorded_too(made: Made, way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    for _ in range(3):
        assert torch.equal(snn.unroll(x, chunk=3), plain.unroll(x, chunk=1))
    assert made.recorded == 2  # of 3 steps and 2


@ways
@torch.no_grad()
def test_steps_that_count_are_told_apart(made: Made, way: Chunks) -> None:
    first = (nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    layers = (*first, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    snn = st.twin(nn.Sequential(*layers), 6, (4,), norm=st.TEBN()).eval()
    norms = [unit for unit in snn.modules() if isinstance(unit, TemporalBatchNorm)]
    for unit in norms:
        unit.factors.copy_(1 + torch.arange(6) / 4)
    x = 8 * torch.rand(5, 4)
    expected = snn.unroll(x, chunk=1)
    assert norms
    assert expected.diff(dim=0).abs().sum() > 0
    run_by(snn, way)
    for _ in range(3):
        torch.testing.assert_close(snn.unroll(x), expected)
    assert made.recorded == 3  # three chunks of two steps


@ways
@torch.no_grad()
def test_steps_without_an_image_are_recorded_once(made: Made, way: Chunks) -> None:
    x = torch.rand(5, 4)
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    snn = st.to_snn(ann.eval(), x, st.Graded())
    assert snn.drive == 1
    expected = snn.unroll(x, 13, chunk=1)
    run_by(snn, way)
    for _ in range(3):
        torch.testing.assert_close(snn.unroll(x, 13), expected)
    assert made.recorded <= 3  # one step with an image; six times two without one


@ways
@torch.no_grad()
def test_functions_of_what_has_arrived(made: Made, way: Chunks) -> None:
    class Gelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.last(nn.functional.gelu(x) * x.softmax(-1))

    x = torch.rand(5, 4)
    snn = st.to_snn(Gelu().eval(), x, st.Graded(steps=STEPS))
    expected = snn.unroll(x)
    run_by(snn, way)
    for _ in range(3):
        assert torch.equal(snn.unroll(x), expected)
    assert made.ran


@given(
    values=some.lists(
        some.sampled_from([0.0, 1.5, -2.0, float("inf"), float("nan")]), min_size=3, max_size=3
    ),
    drive=some.sampled_from([None, 1, 2]),
    masked=some.booleans(),
)
def test_a_function_recorded_holds_what_has_no_answer(
    values: list[float], drive: int | None, masked: bool
) -> None:
    def divided(signals: Any) -> Tensor:
        return (signals[0] - 1.5) / signals[0]  # infinite while nothing has arrived

    x = torch.tensor(values).view(3, 1, 1)
    expected, sums = telescope(divided, [x], None, drive=drive, masked=masked)
    with recording():
        found, after = telescope(divided, [x], None, drive=drive, masked=masked)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(after.answer, sums.answer, rtol=0, atol=0, equal_nan=True)
