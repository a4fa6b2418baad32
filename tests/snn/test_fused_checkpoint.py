"""Neurons in ``torch.utils.checkpoint`` whose kernels come between the first run and the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spiketune as st
from spiketune.snn import IF, neuron_path
from spiketune.snn.fused import paths

pytestmark = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="before 2.8 PyTorch does not tell what is computed again",
)
each_kind = pytest.mark.parametrize("reentrant", [False, True])
WIDTH = 7


class Block(nn.Module):
    """Weights, neurons, weights; in several stretches of time, so that states pass on."""

    def __init__(self, stretches: int = 1) -> None:
        super().__init__()
        self.linear, self.neuron = nn.Linear(WIDTH, WIDTH), IF(torch.tensor(0.3))
        self.stretches = stretches

    def forward(self, x: Tensor) -> Tensor:
        state, found = None, []
        for part in self.linear(x).chunk(self.stretches):
            spikes, state = self.neuron(part, state)
            found.append(spikes)
        return torch.cat(found).sin() * self.linear.weight.mean()


def gradients(blocks: nn.ModuleList, around: Callable[..., Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    y = x = torch.randn(4, 2, WIDTH).requires_grad_()
    for block in blocks:
        y = around(block, y)
    blocks.zero_grad()
    y.square().sum().backward()
    assert x.grad is not None and x.grad.any()
    return [x.grad, *(p.grad for p in blocks.parameters() if p.grad is not None)]


def plainly(block: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = block(x)
    return found


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> nn.ModuleList:
    torch.manual_seed(0)
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    return nn.ModuleList([Block(), Block(stretches=2), Block()])


@pytest.fixture
def expected(blocks: nn.ModuleList) -> list[Tensor]:
    with neuron_path("eager"):
        return gradients(blocks, plainly)


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@each_kind
@pytest.mark.parametrize("values", [60, 120])  # kernels for the third block, and within the second
def test_kernels_may_come_between(
    blocks: nn.ModuleList, expected: list[Tensor], monkeypatch: pytest.MonkeyPatch,
    reentrant: bool, values: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(paths, "WORTH", values)

    def around(block: nn.Module, x: Tensor) -> Tensor:
        found: Tensor = checkpoint(block, x, use_reentrant=reentrant)
        return found

    for _ in range(3):
        same(gradients(blocks, around), expected)
    assert paths._ways.made


def test_one_inside_another(
    blocks: nn.ModuleList, expected: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WORTH", 60)

    def inner(block: nn.Module, x: Tensor) -> Tensor:
        found: Tensor = checkpoint(block, x, use_reentrant=False)
        return found

    def around(block: nn.Module, x: Tensor) -> Tensor:
        found: Tensor = checkpoint(inner, block, x, use_reentrant=False)
        return found

    same(gradients(blocks, around), expected)
    assert paths._ways.made


@pytest.mark.parametrize(("first", "back"), [("eager", "compiled"), ("compiled", "eager")])
def test_the_way_back_is_free_to_stand_elsewhere(
    blocks: nn.ModuleList, expected: list[Tensor], first: str, back: str
) -> None:
    with neuron_path("compiled"):
        gradients(blocks, plainly)  # all kernels are there
    torch.manual_seed(1)
    y = x = torch.randn(4, 2, WIDTH).requires_grad_()
    with neuron_path(first):
        for block in blocks:
            y = checkpoint(block, y, use_reentrant=False)
    blocks.zero_grad()
    with neuron_path(back):
        y.square().sum().backward(retain_graph=True)
    assert x.grad is not None
    same([x.grad], expected[:1])
    x.grad = None
    y.square().sum().backward()  # once more, and with no word at all
    same([x.grad], expected[:1])


def test_second_derivatives_through_it(blocks: nn.ModuleList) -> None:
    found = []
    for path in ("eager", "compiled"):
        torch.manual_seed(1)
        y = x = torch.randn(4, 2, WIDTH).requires_grad_()
        with neuron_path(path):
            for block in blocks:
                y = checkpoint(block, y, use_reentrant=False)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found += torch.autograd.grad(grad.square().sum(), x)
    assert found[0].any()
    torch.testing.assert_close(found[1], found[0])


@each_kind
def test_a_whole_network(monkeypatch: pytest.MonkeyPatch, reentrant: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
    snn = st.twin(nn.Sequential(*layers, nn.Linear(8, 3)), 4, (6,))
    found = []
    for worth in (10**9, 100):  # eagerly; and the third layer through kernels, as yet alone
        monkeypatch.setattr(paths, "_ways", paths._Ways())
        monkeypatch.setattr(paths, "WORTH", worth)
        torch.manual_seed(1)
        x = torch.rand(2, 6).requires_grad_()
        answers = checkpoint(snn, x, use_reentrant=reentrant)
        answers.square().sum().backward()
        assert x.grad is not None and x.grad.any()
        found.append(x.grad)
    assert paths._ways.made
    torch.testing.assert_close(found[1], found[0])
