"""tdBN and TEBN against separately written NumPy, inside networks, and in files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import TDBN, TEBN, Norm, SharedBN, TemporalBatchNorm, ThresholdBatchNorm
from spiketune.snn.norms import scale_and_shift

STEPS = 4
Array = NDArray[np.float64]


def normed(x: Array, gain: Array, shift: Array, eps: float) -> tuple[Array, Array, Array]:
    """BatchNorm of ``[T, B, C, ...]`` and its mean and unbiased variance, from their definition."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 2)
    count = x.size // x.shape[2]
    mean = x.sum(axes) / count
    square = ((x - mean.reshape(-1, *[1] * (x.ndim - 3))) ** 2).sum(axes)
    shape = (-1, *[1] * (x.ndim - 3))
    y = (x - mean.reshape(shape)) / np.sqrt(square / count + eps).reshape(shape)
    return gain.reshape(shape) * y + shift.reshape(shape), mean, square / (count - 1)


def currents(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, *shape, dtype=torch.float64, generator=generator)
    # Steps that differ, so that statistics of one step are not those of all.
    return x * torch.arange(1, STEPS + 1).view(-1, *[1] * len(shape)) + 0.3


def plain(dims: int, channels: int = 3) -> nn.BatchNorm1d | nn.BatchNorm2d:
    norm = (nn.BatchNorm1d if dims < 5 else nn.BatchNorm2d)(channels, eps=1e-3).double()
    generator = torch.Generator().manual_seed(2)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.copy_(torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5)
    return norm


def tdbn(dims: int, scale: float, channels: int = 3) -> ThresholdBatchNorm:
    made = TDBN(alpha=scale).make(plain(dims, channels), steps=STEPS, before_sum=False)
    assert isinstance(made, ThresholdBatchNorm)
    return made


def tebn(dims: int, channels: int = 3) -> TemporalBatchNorm:
    made = TEBN().make(plain(dims, channels), steps=STEPS, before_sum=False)
    assert isinstance(made, TemporalBatchNorm)
    return made


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 2, 4)], ids=str)
def test_tdbn_is_its_equation_with_an_unbiased_running_variance(shape: tuple[int, ...]) -> None:
    x, norm = currents(*shape), tdbn(len(shape) + 1, 0.7)
    gain, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    assert norm.running_mean is not None and norm.running_var is not None
    before = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    y = norm(x.flatten(0, 1)).detach().view_as(x).numpy()
    expected, mean, var = normed(x.numpy(), 0.7 * gain, shift, norm.eps)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    # The variance of all T·B·H·W values divided by one less than their number.
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.9 * before[0] + 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.9 * before[1] + 0.1 * var, rtol=1e-12)
    norm.eval()
    fixed = 0.7 * gain / np.sqrt(norm.running_var.numpy() + norm.eps)
    moved = x.movedim(2, -1).numpy() - norm.running_mean.numpy()
    y = norm(x.flatten(0, 1)).detach().view_as(x).movedim(2, -1).numpy()
    np.testing.assert_allclose(y, fixed * moved + shift, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 4)], ids=str)
def test_tebn_with_factors_of_one_is_tdbn_with_a_scale_of_one(
    shape: tuple[int, ...], training: bool
) -> None:
    dims = len(shape) + 1
    one, other = tebn(dims).train(training), tdbn(dims, 1.0).train(training)
    first, second = currents(*shape).requires_grad_(), currents(*shape).requires_grad_()
    y, z = one(first)[0], other(second.flatten(0, 1)).view_as(second)
    torch.testing.assert_close(y, z, rtol=0, atol=1e-12)
    for out in (y, z):
        (out**3).sum().backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.norm.running_var, other.running_var, rtol=1e-12, atol=0)


def test_tebn_multiplies_each_step_by_its_own_factor() -> None:
    x, norm = currents(6, 3, 2, 4), tebn(5)
    factors = torch.tensor([0.5, 1.0, 2.0, -1.0], dtype=torch.float64)
    norm.factors.data.copy_(factors)
    inner = norm.norm
    assert isinstance(inner, nn.BatchNorm2d)
    gain, shift = inner.weight.detach().numpy(), inner.bias.detach().numpy()
    y, state = norm(x)
    expected, _, _ = normed(x.numpy(), gain, shift, inner.eps)
    found = y.detach().numpy()
    np.testing.assert_allclose(
        found, factors.numpy().reshape(-1, 1, 1, 1, 1) * expected, rtol=1e-12, atol=1e-12
    )
    assert state.count == STEPS
    # dL/dk[t] of L = Σ g y is Σ g[t] BN(x)[t].
    g = currents(6, 3, 2, 4).cos()
    (g * y).sum().backward()
    assert norm.factors.grad is not None
    np.testing.assert_allclose(
        norm.factors.grad.numpy(), (g.numpy() * expected).sum((1, 2, 3, 4)), rtol=1e-9
    )


def test_tdbn_counts_batches_where_there_is_no_momentum() -> None:
    x = currents(6, 3).flatten(0, 1)
    norm = ThresholdBatchNorm(3, scale=2.0, momentum=None).double()
    for part in x.chunk(3):
        norm(part)
    means = np.stack([part.numpy().mean(0) for part in x.chunk(3)])
    assert norm.running_mean is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), means.mean(0), rtol=1e-12)


@pytest.mark.parametrize("kind", [SharedBN(), TDBN(alpha=0.3)], ids=str)
def test_scale_and_shift_are_the_map_in_evaluation(kind: Norm) -> None:
    norm = kind.make(plain(3), steps=STEPS, before_sum=True).eval()
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    scale, shift = scale_and_shift(norm)
    x = currents(6, 3).flatten(0, 1)
    torch.testing.assert_close(norm(x), scale * x + shift, rtol=1e-12, atol=1e-12)


class Residual(nn.Module):
    """One block with a projection on its shortcut, and a layer before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm_stem = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.a, self.norm_a = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6, affine=False)
        self.b, self.norm_b = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.side, self.norm_side = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.hidden, self.norm_hidden = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_stem(self.stem(x)))
        y = self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
        x = torch.relu(y + self.norm_side(self.side(x))).mean((2, 3))
        return self.head(torch.relu(self.norm_hidden(self.hidden(x))))


def network(kind: Norm | None) -> st.SpikingNetwork:
    torch.manual_seed(0)
    return st.twin(Residual(), STEPS, (1, 6, 6), leak=0.9, norm=kind)


def test_tdbn_halves_the_variance_of_both_terms_of_a_residual_sum() -> None:
    snn = network(TDBN(alpha=1.5))
    scales = {
        name.removesuffix(".norm"): module.scale
        for name, module in snn.net.named_modules()
        if isinstance(module, ThresholdBatchNorm)
    }
    half = 1.5 * 0.5**0.5
    assert scales == {
        "norm_stem": 1.5, "norm_a": 1.5, "norm_hidden": 1.5,
        "norm_b": pytest.approx(half), "norm_side": pytest.approx(half),
    }  # fmt: skip
    sums: list[Tensor] = []
    for name in ("norm_b", "norm_side"):
        snn.net.get_submodule(f"{name}.norm").register_forward_hook(
            lambda module, args, out: sums.append(out)
        )
    snn(torch.rand(16, 1, 6, 6))
    for out in sums:
        variance = out.detach().var((0, 2, 3), correction=0)
        assert variance.max().item() == pytest.approx(half**2, rel=1e-3)


@pytest.mark.parametrize("kind", [None, SharedBN(), TDBN(), TEBN()], ids=str)
def test_files_and_copies_keep_trained_norms(kind: Norm | None, tmp_path: Path) -> None:
    snn = network(kind)
    optimizer = torch.optim.SGD(snn.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        snn(torch.rand(8, 1, 6, 6)).square().sum().backward()
        optimizer.step()
    frozen = snn.net.get_submodule("norm_hidden.norm")
    frozen.requires_grad_(False)
    images = torch.rand(5, 1, 6, 6)
    expected = snn.eval().unroll(images)
    copies = [
        st.load(st.save(snn, tmp_path / "net.safetensors")),
        pickle.loads(pickle.dumps(snn)),
        copy.deepcopy(snn),
    ]
    for again in copies:
        assert torch.equal(again.unroll(images), expected)
        assert not any(p.requires_grad for p in again.net.get_submodule("norm_hidden").parameters())
        assert any(p.requires_grad for p in again.net.get_submodule("norm_b").parameters())
        again.train(), snn.train()
        torch.testing.assert_close(again(images), snn(images))
        snn.load_state_dict(copies[-1].state_dict())
        snn.eval()


def test_factors_follow_the_steps_of_the_whole_run() -> None:
    snn = network(TEBN())
    images = torch.rand(5, 1, 6, 6)
    snn(images)  # statistics of its own
    snn.eval()
    units = [module for module in snn.modules() if isinstance(module, TemporalBatchNorm)]
    assert len(units) == 5 and all(unit.steps == STEPS for unit in units)
    before = snn.unroll(images)
    with torch.no_grad():
        for unit in units:
            unit.factors.mul_(torch.tensor([2.0, 0.5, 3.0, 1.0]))
    curve = snn.unroll(images)
    assert not torch.equal(curve, before)
    for chunk in (1, 3):
        torch.testing.assert_close(snn.unroll(images, chunk=chunk), curve)
    torch.testing.assert_close(snn.unroll(images, 2), curve[:2])
    with pytest.raises(st.SpiketuneError, match=r"factors for 4 steps.*cannot run 5.*steps=5"):
        snn(images, 5)
    assert snn.ann(images).shape == (5, 3)


@torch.no_grad()
def test_a_run_is_the_equation_step_by_step() -> None:
    torch.manual_seed(3)
    ann = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2),
    )  # fmt: skip
    snn = st.twin(ann, STEPS, (6,), norm=TEBN()).double()
    factors = torch.rand(2, STEPS, dtype=torch.float64) + 0.5
    units = [module for module in snn.modules() if isinstance(module, TemporalBatchNorm)]
    for unit, k in zip(units, factors, strict=True):
        unit.factors.copy_(k)
    ann = ann.double()
    images = torch.randn(9, 6, dtype=torch.float64)
    x: Array = np.broadcast_to(images.numpy(), (STEPS, 9, 6)).copy()
    for layer, k in zip((0, 3), factors.numpy(), strict=True):
        weight, bias = (p.detach().numpy() for p in ann[layer].parameters())
        current, _, _ = normed(x @ weight.T + bias, np.ones(len(bias)), np.zeros(len(bias)), 1e-5)
        current = k.reshape(-1, 1, 1) * current
        membrane, x = np.zeros_like(current[0]), np.zeros_like(current)
        for t in range(STEPS):
            membrane = membrane + current[t]
            x[t] = membrane >= 1
            membrane = membrane - x[t]
    weight, bias = (p.detach().numpy() for p in ann[6].parameters())
    assert 0 < x.mean() < 1
    np.testing.assert_allclose(snn(images).numpy(), (x @ weight.T + bias).mean(0), rtol=1e-9)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(st.SpiketuneError, match="scale must be above zero"):
        TDBN(alpha=0.0).make(plain(3), steps=STEPS, before_sum=False)
    with pytest.raises(st.SpiketuneError, match="at least 1"):
        TemporalBatchNorm(plain(3), steps=0)
