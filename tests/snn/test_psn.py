"""PSN against a leaky loop without reset, its closed-form gradient, causality, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_networks import Residual
from torch import Tensor, nn

from spiketune.snn import PSN, ATan, Firing, HardReset, SpiketuneError, SpikingNetwork, load, save
from spiketune.snn.cost import costs
from spiketune.zoo import ParallelNeuron, twin

quick = settings(max_examples=60, deadline=None, derandomize=True)
one = torch.tensor(1.0, dtype=torch.float64)
steps_and_orders = st.integers(1, 9).flatmap(
    lambda steps: st.tuples(st.just(steps), st.integers(1, steps))
)


def decaying(steps: int, leak: float) -> Tensor:
    """Return ``W[t, k] = λ^(t-k)`` for ``k <= t``, else 0."""
    t = torch.arange(steps, dtype=torch.float64)
    return (leak ** (t[:, None] - t).clamp_min(0)) * (t[:, None] >= t)


@given(st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 2**32 - 1))
@quick
def test_decaying_weights_are_a_leaky_neuron_without_reset(
    steps: int, leak: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Of powers of two, so that a product of matrices sums exactly in any order.
    current = np.round(rng.normal(0.3, 0.8, (steps, 2, 3)) * 64) / 64
    v, spikes = np.zeros((2, 3)), []
    for c in current:
        v = leak * v + c
        spikes.append((v >= 1.0).astype(float))
    for order in (None, steps):
        unit = PSN(one, steps=steps, order=order, weight=decaying(steps, leak))
        out, state = unit(torch.from_numpy(current))
        np.testing.assert_array_equal(out.detach().numpy(), np.stack(spikes))
        np.testing.assert_array_equal(state.membrane.detach().numpy(), v)


@given(steps_and_orders, st.integers(0, 2**32 - 1))
@quick
def test_a_step_reaches_its_order_of_steps_and_no_others(sizes: tuple[int, int], seed: int) -> None:
    (steps, order), drawn = sizes, torch.Generator().manual_seed(seed)
    weight = torch.randn(steps, steps, generator=drawn, dtype=torch.float64)
    unit = PSN(one, steps=steps, order=order, weight=weight, firing=Firing(surrogate=ATan()))
    current = torch.randn(steps, 1, generator=drawn, dtype=torch.float64).requires_grad_(True)
    out, _ = unit(current)
    for t in range(steps):
        (gradient,) = torch.autograd.grad(out[t].sum(), current, retain_graph=True)
        reached = gradient.flatten().nonzero().flatten().tolist()
        assert reached == list(range(max(0, t - order + 1), t + 1))


@given(steps_and_orders, st.data())
@quick
def test_with_an_order_it_is_causal(sizes: tuple[int, int], data: st.DataObject) -> None:
    steps, order = sizes
    drawn = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    weight = torch.randn(steps, steps, generator=drawn, dtype=torch.float64)
    unit = PSN(one, steps=steps, order=order, weight=weight)
    current = torch.randn(steps, 4, generator=drawn, dtype=torch.float64)
    changed = current.clone()
    at = data.draw(st.integers(0, steps - 1))
    changed[at] += 100 * torch.randn(4, generator=drawn, dtype=torch.float64)
    with torch.no_grad():
        before, after = unit(current)[0], unit(changed)[0]
    assert torch.equal(before[:at], after[:at])
    assert torch.equal(before[at + order :], after[at + order :])


def test_without_an_order_it_sees_later_steps() -> None:
    unit = PSN(one, steps=3, weight=torch.ones(3, 3))
    out, _ = unit(torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64))
    assert out.flatten().tolist() == [1, 1, 1]


@given(st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_gradients_equal_their_closed_form(steps: int, masked: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    current, weight = rng.normal(size=(steps, 2, 3)), rng.normal(size=(steps, steps))
    bias, g, theta = rng.normal(-1, 0.3, steps), rng.normal(size=(steps, 2, 3)), 0.7
    unit = PSN(
        theta * one,
        steps=steps,
        order=1 if masked else None,
        weight=torch.from_numpy(weight),
        bias=torch.from_numpy(bias),
        firing=Firing(surrogate=ATan()),
    ).requires_grad_(True)
    x = torch.from_numpy(current).requires_grad_(True)
    out, _ = unit(x)
    (out * torch.from_numpy(g)).sum().backward()

    mask = np.eye(steps) if masked else np.ones((steps, steps))
    h = np.einsum("tk,kbn->tbn", weight * mask, current)
    distance = h / theta + bias[:, None, None]
    slope = 1 / (1 + (np.pi * distance) ** 2)
    np.testing.assert_array_equal(out.detach().numpy(), theta * (distance >= 0))
    delta = g * theta * slope
    expected = {
        "weight": np.einsum("tbn,kbn->tk", delta, current) / theta * mask,
        "bias": delta.sum((1, 2)),
        "threshold": (g * (distance >= 0) - delta * h / theta**2).sum(),
    }
    for name, value in expected.items():
        gradient = getattr(unit, name).grad
        np.testing.assert_allclose(gradient.numpy(), value, atol=1e-10)
    assert x.grad is not None
    back = np.einsum("tk,tbn->kbn", weight * mask, delta) / theta
    np.testing.assert_allclose(x.grad.numpy(), back, atol=1e-10)


def test_it_begins_as_the_paper_says() -> None:
    unit = PSN(torch.tensor(1.0), steps=16)
    assert unit.bias.unique().tolist() == [-1.0]
    largest = unit.weight.abs().max().item()
    assert 0.9 / 4 < largest <= 1 / 4  # kaiming_uniform with a = √5: U(-1/√T, 1/√T)
    assert abs(unit.weight.mean().item()) < 0.05
    assert unit.weight.requires_grad and unit.bias.requires_grad


def network(steps: int, order: int | None = None) -> tuple[SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    snn = twin(Residual(), steps, (1, 8, 8), neuron=ParallelNeuron(order=order)).eval()
    for _, unit in snn.neurons():
        assert isinstance(unit, PSN)
        nn.init.uniform_(unit.weight, 0.0, 2.0)
    return snn, torch.rand(3, 1, 8, 8)


@torch.no_grad()
def test_more_steps_than_a_chunk_are_seen_at_once() -> None:
    snn, x = network(13)
    seen: list[int] = []
    found = snn.unroll(x, monitor=lambda name, out: seen.append(len(out)))
    assert set(seen) == {13}
    with torch.enable_grad():
        expected = snn.unroll(x)
    assert torch.equal(found, expected.detach()) and found.std() > 0
    torch.testing.assert_close(snn(x), found[-1])


@torch.no_grad()
def test_another_number_of_steps_is_refused() -> None:
    snn, x = network(4)
    snn(x)
    for run in (
        lambda: snn(x, 3),
        lambda: snn(x, 8),
        lambda: snn.unroll(x, chunk=2),
        lambda: snn.unroll(x, 8, chunk=4),
    ):
        with pytest.raises(SpiketuneError, match="T=4 steps at once") as caught:
            run()
        assert "\n" not in str(caught.value)
    unit = PSN(torch.tensor(1.0), steps=2)
    with pytest.raises(SpiketuneError, match="all its steps at once"):
        unit.step(torch.zeros(1), unit.start(torch.zeros(2, 1)))


@pytest.mark.parametrize("order", [None, 3])
@torch.no_grad()
def test_what_is_loaded_is_what_was_saved(order: int | None, tmp_path: Path) -> None:
    snn, x = network(5, order)
    again = load(save(snn, tmp_path / "psn.safetensors"))
    assert torch.equal(again(x), snn(x)) and snn(x).std() > 0
    for (_, found), (_, unit) in zip(again.neurons(), snn.neurons(), strict=True):
        assert type(found) is PSN and isinstance(unit, PSN)
        assert (found.steps, found.order) == (5, order)
        assert found.weight.requires_grad and torch.equal(found.bias, unit.bias)


@pytest.mark.parametrize("order", [None, 3])
def test_its_own_products_are_counted(order: int | None) -> None:
    snn, _ = network(5, order)
    found = costs(snn)
    neurons = 4 * 64 + 2 * 4 * 16 + 6
    assert found.neurons == neurons
    assert found.dense_macs == neurons * (order or 5)


def test_half_precision_reaches_no_sum() -> None:
    unit = PSN(torch.tensor(1.0), steps=2, weight=torch.tensor([[1.0, 0.0], [1.0, 2.0**-12]]))
    current = torch.tensor([[1 - 2.0**-12], [1.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = unit(current)
    assert out.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("given_", "word"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": 4, "order": 0}, "order"),
        ({"steps": 4, "order": 5}, "order"),
        ({"steps": 4, "weight": torch.ones(3, 3)}, r"\[4, 4\]"),
        ({"steps": 4, "bias": torch.ones(3)}, r"\[4\]"),
        ({"steps": 4, "firing": Firing(reset=HardReset())}, "never resets"),
    ],
)
def test_what_does_not_fit_is_refused(given_: dict[str, Any], word: str) -> None:
    with pytest.raises(SpiketuneError, match=word) as caught:
        PSN(torch.tensor(1.0), **given_)
    assert "\n" not in str(caught.value)
