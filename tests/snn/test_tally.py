"""Counts in one pass against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spiketune.snn import neuron_path
from spiketune.snn.fused import c_build, paths
from spiketune.snn.fused.tally import _kernel, tally, tally_several

each_path = pytest.mark.parametrize("path", ["eager", "compiled"])
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool)


def sparse(*shape: int) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) < 0.3)


def expected(sent: Tensor, fan_out: Tensor) -> tuple[list[int], list[int]]:
    events = (sent.double() != 0).numpy().astype(object)  # Python's whole numbers: no overflow
    met = events * fan_out.numpy().astype(object)
    steps = (1, 2)
    return np.sum(events, steps).tolist(), np.sum(met, steps).tolist()


def check(sent: Tensor, fan_out: Tensor, path: str) -> None:
    with neuron_path(path):
        spikes, met = tally(sent, fan_out, int(fan_out.max()))
    assert spikes.dtype == met.dtype == torch.long
    assert (spikes.tolist(), met.tolist()) == expected(sent, fan_out)


@each_path
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 77), (2, 2, 33_001)], ids=str)
def test_counts_equal_numpys(path: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    check(sparse(*shape).to(dtype), torch.randint(9, (shape[2],), dtype=torch.int32), path)


@each_path
def test_large_fan_outs_do_not_overflow(path: str) -> None:
    fan_out = torch.randint(2**30, 2**31 - 1, (5_000,), dtype=torch.int32)
    check(torch.ones(3, 4, 5_000), fan_out, path)


@each_path
def test_zero_has_two_signs_and_what_is_tiny_or_not_a_number_counts(path: str) -> None:
    sent = torch.tensor([[[0.0, -0.0, 1e-45, -1e-45, float("nan"), float("inf")]]])
    with neuron_path(path):
        spikes, met = tally(sent, torch.tensor([1, 2, 4, 8, 16, 32], dtype=torch.int32), 32)
    assert (spikes.item(), met.item()) == (4, 4 + 8 + 16 + 32)


@each_path
def test_values_may_lie_anywhere(path: str) -> None:
    fan_out = torch.randint(9, (40,), dtype=torch.int32)
    check(sparse(9, 3, 40)[2:7:2], fan_out, path)  # steps apart
    check(sparse(5, 40, 3).transpose(1, 2), fan_out, path)
    check(sparse(1, 3, 40).expand(4, 3, 40), fan_out, path)
    check(sparse(5, 6, 40)[:, ::2], fan_out, path)


@each_path
def test_no_images_no_spikes(path: str) -> None:
    check(sparse(3, 0, 7), torch.ones(7, dtype=torch.int32), path)


def test_threads_share_the_work() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check(sparse(3, 2, 50_000), torch.randint(99, (50_000,), dtype=torch.int32), "compiled")
    finally:
        torch.set_num_threads(before)


def test_several_spikes_a_value() -> None:
    events, fan_out = torch.randint(4, (5, 3, 20)), torch.randint(9, (20,), dtype=torch.int32)
    for dtype in (torch.long, torch.float32, torch.bfloat16):
        spikes, met = tally_several(events.to(dtype), fan_out)
        assert spikes.tolist() == events.numpy().sum((1, 2)).tolist()
        assert met.tolist() == (events.numpy() * fan_out.numpy()).sum((1, 2)).tolist()


def test_without_a_compiler_counts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: str) -> None:
        raise c_build.NoCompiler("no C compiler on the path")

    monkeypatch.setattr("spiketune.snn.fused.tally.library", missing)
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    monkeypatch.setattr(paths, "WORTH", 0)
    _kernel.cache_clear()
    sent, fan_out = sparse(3, 2, 50), torch.randint(9, (50,), dtype=torch.int32)
    with pytest.warns(UserWarning, match="no C compiler"):
        check(sent, fan_out, "auto")
    check(sent, fan_out, "auto")
