"""The filter over time against SciPy's, plain autograd and finite differences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import Synapse
from spiketune.snn.filters import low_pass

each_way = pytest.mark.parametrize("delayed", [False, True])


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@each_way
@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0])
def test_it_is_scipys_filter_a_step_later_where_delayed(tau: float, delayed: bool) -> None:
    x = values(9, 2, 3)
    before = [0.0, 1 / tau] if delayed else [1 / tau]
    expected = torch.tensor(lfilter(before, [1, -(1 - 1 / tau)], x.numpy(), axis=0))
    found, last = low_pass(x, tau, torch.zeros(2, 3, dtype=torch.double), delayed=delayed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    first, state = Synapse(tau=tau, delayed=delayed)(x[:4])
    second, state = Synapse(tau=tau, delayed=delayed)(x[4:], state)
    assert torch.equal(torch.cat([first, second]), found) and torch.equal(state.membrane, last)


@each_way
def test_gradients_are_those_of_finite_differences(delayed: bool) -> None:
    x, level = values(4, 1, 2).requires_grad_(), values(1, 2).requires_grad_()

    def run(given: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
        return low_pass(given, 3.0, begin, delayed=delayed)

    assert torch.autograd.gradcheck(run, (x, level))

    def held(given: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
        return low_pass((2 * given).expand(5, 1, 2), 3.0, begin, delayed=delayed)

    assert torch.autograd.gradcheck(held, (values(1, 2).requires_grad_(), level))


@each_way
def test_a_held_value_is_filtered_as_copies_of_it(delayed: bool) -> None:
    once, copied = values(3, 2).requires_grad_(), values(3, 2).requires_grad_()
    weights, level = values(6, 3, 2), values(3, 2)
    for x, given in ((once, (1 * once).expand(6, 3, 2)), (copied, copied.repeat(6, 1, 1))):
        sent, last = low_pass(given, 2.5, level, delayed=delayed)
        ((sent * weights).sum() + last.sum()).backward()
        assert x.grad is not None
    assert once.grad is not None and copied.grad is not None
    torch.testing.assert_close(once.grad, copied.grad, rtol=1e-12, atol=1e-12)


def test_a_spike_acts_a_step_later_and_a_file_keeps_that(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    ann = nn.Sequential(ann, nn.ReLU())
    plain, late = (st.twin(ann, 8, (4,), leak=0.9).eval() for _ in range(2))
    st.add_synapses(plain, 2.0)
    st.add_synapses(late, 2.0, delayed=True)
    x = 3 * torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        now, then = (torch.cat(list(snn.outputs(x, 8))) for snn in (plain, late))
    assert now.any() and torch.equal(then[2:], now[:-2])  # a step for each of two layers
    st.save(late, tmp_path / "late.safetensors")
    assert torch.equal(st.load(tmp_path / "late.safetensors")(x), late(x))
