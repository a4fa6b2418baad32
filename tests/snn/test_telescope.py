"""Functions of accumulated signals, readouts, and answers in any structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import spiketune
from spiketune.compare import Meter
from spiketune.snn import (
    Delayed,
    Mean,
    Membrane,
    SpiketuneError,
    SpikingNetwork,
    leaves,
    over_leaves,
)
from spiketune.snn.functions import telescope

Function = Callable[[Sequence[Tensor]], Tensor]
quick = settings(max_examples=40, deadline=None, derandomize=True)

FUNCTIONS: dict[str, tuple[int, Function]] = {
    "gelu": (1, lambda v: functional.gelu(v[0])),
    "softmax": (1, lambda v: v[0].softmax(-1)),
    "maximum": (1, lambda v: functional.max_pool1d(v[0].flatten(0, 1), 2).view(-1, 2, 3, 2)),
    "product": (2, lambda v: v[0] * v[1]),
    "matrix product": (2, lambda v: v[0] @ v[1].transpose(-1, -2)),
    "gate": (3, lambda v: v[0] * v[1].sigmoid() + v[2].exp()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seed=st.integers(0, 2**31), drive=st.sampled_from([None, 1, 3]), steps=st.integers(1, 9))
@quick
def test_the_sum_of_what_is_sent_is_the_function_of_the_sums(
    name: str, seed: int, drive: int | None, steps: int
) -> None:
    count, function = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    signals = [torch.from_numpy(rng.normal(0, 1, (steps, 2, 3, 4))) for _ in range(count)]
    sent, sums = telescope(function, signals, None, drive=drive)
    for t in range(1, steps + 1):
        n = min(t, drive or t)
        expected = n * function([s[:t].sum(0, keepdim=True) / n for s in signals])[0]
        torch.testing.assert_close(sent[:t].sum(0), expected, rtol=1e-9, atol=1e-9)
    assert sums.count == steps
    state, parts = None, []
    for place in range(0, steps, 2):
        part, state = telescope(
            function, [s[place : place + 2] for s in signals], state, drive=drive
        )
        parts.append(part)
    assert torch.equal(torch.cat(parts), sent)


def test_half_precision_signals_are_summed_in_single() -> None:
    x = torch.full((512, 1, 1), 0.01, dtype=torch.bfloat16)
    _, sums = telescope(lambda v: v[0], [x], None, drive=1)
    assert sums.inputs[0].dtype == torch.float32
    assert float(sums.inputs[0]) == pytest.approx(512 * float(x[0]), rel=1e-5)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 14), start=st.integers(1, 10))
@quick
def test_readouts_equal_a_loop(seed: int, steps: int, start: int) -> None:
    outputs = np.random.default_rng(seed).normal(0, 1, (steps, 2, 3))
    given_ = torch.from_numpy(outputs)
    for drive in (None, 1, 4):
        mean = [outputs[:t].sum(0) / min(t, drive or t) for t in range(1, steps + 1)]
        np.testing.assert_allclose(Mean()(given_, drive), np.stack(mean), atol=1e-12)
        sums = [outputs[:t].sum(0) for t in range(1, steps + 1)]
        np.testing.assert_allclose(Membrane()(given_, drive), np.stack(sums), atol=1e-12)
    late = [outputs[min(start, max(t - 4, 0)) : t].mean(0) for t in range(1, steps + 1)]
    np.testing.assert_allclose(Delayed(start=start)(given_, None), np.stack(late), atol=1e-12)


def test_a_delayed_readout_needs_a_lasting_image() -> None:
    with pytest.raises(SpiketuneError, match="every step"):
        Delayed()(torch.zeros(3, 1), 1)
    with pytest.raises(SpiketuneError, match="at least 1"):
        Delayed(start=0)


@pytest.mark.parametrize("readout", [Mean(), Membrane(), Delayed(start=3)])
@torch.no_grad()
def test_a_call_is_the_end_of_the_curve(readout: Mean | Membrane | Delayed, tmp_path: Path) -> None:
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(9, 6)
    snn = spiketune.to_snn(ann, x, spiketune.Ternary(steps=13, readout=readout))
    torch.testing.assert_close(snn(x), snn.unroll(x)[-1])
    again = spiketune.load(spiketune.save(snn, tmp_path / "a.safetensors"))
    assert again.readout == readout and torch.equal(again(x), snn(x))


def test_over_leaves_keeps_the_structure() -> None:
    tree = {"a": torch.ones(2), "b": [torch.zeros(1), (torch.ones(1),)]}
    doubled = over_leaves(lambda one, other: one + other, tree, tree)
    assert doubled["a"].tolist() == [2, 2]
    assert isinstance(doubled["b"], list) and isinstance(doubled["b"][1], tuple)
    assert [leaf.tolist() for leaf in leaves(doubled)] == [[2, 2], [0], [2]]
    assert leaves(torch.ones(1))[0].tolist() == [1]
    with pytest.raises(ValueError):
        over_leaves(lambda one, other: one, [torch.ones(1)], [])


class Several(nn.Module):
    def __init__(self, arrange: Callable[..., Any]) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)
        self.arrange = arrange

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.body(x))
        z = y.mean((2, 3))
        return self.arrange(self.a(z), self.b(z).softmax(-1), functional.max_pool2d(y, 2))


STRUCTURES: dict[str, Callable[..., Any]] = {
    "tuple": lambda a, b, c: (a, b, c),
    "list": lambda a, b, c: [a, b, c],
    "dict": lambda a, b, c: {"logits": a, "share": b, "features": c},
    "nested": lambda a, b, c: {"heads": (a, b), "features": [c]},
    "one in a tuple": lambda a, b, c: (a,),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(
    "method", [spiketune.Graded(levels=12, spikes_per_step=1), spiketune.Ternary(steps=32)]
)
@torch.no_grad()
def test_answers_keep_the_structure_of_the_network(
    name: str, method: spiketune.Graded | spiketune.Ternary, tmp_path: Path
) -> None:
    ann, x = Several(STRUCTURES[name]).eval(), torch.rand(6, 1, 8, 8)
    snn = spiketune.to_snn(ann, x, method)
    expected = ann(x)

    def close(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)

    steps = 8 if snn.drive else 64
    over_leaves(close, expected, snn(x, steps))
    curve = snn.unroll(x, steps)
    over_leaves(lambda one, other: close(one, other[-1]), expected, curve)
    assert {leaf.shape[0] for leaf in leaves(curve)} == {steps}
    over_leaves(close, expected, snn.ann(x))
    again = spiketune.load(spiketune.save(snn, tmp_path / "several.safetensors"))
    assert type(again(x)) is type(expected)
    over_leaves(lambda one, other: close(one - other, 0 * one), snn(x), again(x))


class Attention(nn.Module):
    """Two products of spikes: the scores, and what they weigh."""

    def __init__(self, tokens: int = 5, width: int = 3) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(2, 3 * width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        share = (q @ k.transpose(-2, -1)).softmax(-1)
        out: Tensor = self.out(share @ v).mean(1)
        return out


def same(values: Tensor) -> float:
    """Return the number that all values are."""
    first = float(values.flatten()[0])
    assert bool((values == first).all())
    return first


def attention() -> SpikingNetwork:
    return spiketune.to_snn(
        Attention().eval(), torch.randn(8, 5, 2), spiketune.Graded(steps=4, spikes_per_step=1)
    )


@torch.no_grad()
def test_fan_out_of_matrix_products_equals_counting_by_hand() -> None:
    """``A [N, K] @ B [K, M]``: a spike at ``A[n, k]`` meets ``B[k, :]``, one at ``B`` all ``n``."""
    snn = attention()
    tokens, width = 5, 3
    found = {
        str(node.target): snn_costs
        for node, _ in snn.neuron_nodes()
        if (snn_costs := spiketune.costs(snn).fan_out.get(node.name)) is not None
    }
    assert len(found) == 5 and spiketune.costs(snn).neurons == tokens * (3 * width + tokens + width)

    def met(left: Tensor, right: Tensor) -> int:
        pairs = 0
        for n in range(left.shape[0]):
            for m in range(right.shape[1]):
                for k in range(left.shape[1]):
                    pairs += int(left[n, k] * right[k, m])
        return pairs

    expected = {
        "q": met(torch.eye(1, width), torch.ones(width, tokens)),
        "k": met(torch.ones(tokens, width), torch.eye(width, tokens)[:, :1]),
        "share": met(torch.eye(1, tokens), torch.ones(tokens, width)),
        "v": met(torch.ones(tokens, tokens), torch.eye(tokens, width)[:, :1]),
        "out": 2,
    }
    values = sorted(same(f) for f in found.values())
    assert values == sorted(float(v) for v in expected.values())


@torch.no_grad()
def test_the_meter_counts_what_every_spike_meets_in_attention() -> None:
    snn, x, steps = attention(), torch.randn(3, 5, 2), 6
    seen: dict[str, int] = {}

    def count(name: str, out: Tensor) -> None:
        seen[name] = seen.get(name, 0) + int((out != 0).sum())

    snn.unroll(x, steps, monitor=count)
    meter = Meter(snn, steps)
    meter.unroll(x)
    fan_out = {name: same(f) for name, f in spiketune.costs(snn).fan_out.items()}
    assert meter.accumulates(steps) == pytest.approx(
        sum(seen[name] * fan_out[name] for name in fan_out) / 3
    )


def test_what_is_not_a_number_yet_is_not_sent() -> None:
    """0/0 and log 0 of the first steps leave no trace once something has arrived."""
    signal = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    for function in (lambda v: v / v, torch.log):
        sent, sums = telescope(lambda values, f=function: f(values[0]), [signal], None)
        assert bool(sent.isfinite().all())
        torch.testing.assert_close(sent.sum(0) / 3, function(signal.mean(0)))
        again, _ = telescope(lambda values, f=function: f(values[0]), [signal], sums)
        assert bool(again.isfinite().all())


def test_a_mask_stays_infinite() -> None:
    signal = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    hidden = torch.tensor([True, False])
    sent, _ = telescope(lambda v: v[0].masked_fill(hidden, -torch.inf), [signal], None, masked=True)
    assert sent.sum(0).tolist() == [-torch.inf, 2.0]
    kept, _ = telescope(lambda v: v[0].exp(), [sent], None)
    torch.testing.assert_close(
        kept.sum(0) / 2, torch.tensor([0.0, 1.0]).exp() * torch.tensor([0, 1])
    )
