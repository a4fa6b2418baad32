"""Triton kernels against the reference; ``test_triton_source`` runs this file in a process.

With ``TRITON_INTERPRET=1`` they run in Triton's interpreter on the CPU, else on CUDA.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from spiketune.snn import (
    IF,
    LIF,
    PLIF,
    ATan,
    Burst,
    Firing,
    Graded,
    HardReset,
    Linear,
    Neuron,
    PiecewiseLinear,
    Rectangle,
    Scaled,
    Sigmoid,
    SignedIF,
    SuperSpike,
    Triangle,
)
from spiketune.snn.dynamics import State
from spiketune.snn.fused import kernels
from spiketune.snn.fused.function import plan, run_planned
from spiketune.snn.fused.kernels import Kernels
from spiketune.snn.fused.paths import run_eagerly
from spiketune.snn.fused.tracing import parts_of
from spiketune.snn.fused.triton_kernel import BLOCK, triton_compiled
from spiketune.snn.surrogate import Surrogate

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SLOPES = [
    Triangle(width=0.7), ATan(), SuperSpike(alpha=3.0), Sigmoid(alpha=3.0), Rectangle(width=0.9),
    PiecewiseLinear(), Linear(), Scaled(surrogate=Triangle(), gain=1.7),
]  # fmt: skip
HARD = Firing(reset=HardReset(0.1), detach_reset=False, strict=True)
MADE = Kernels()
SHAPE = (2, 3, 5, 7)  # of a sample and its batch; 210 places, 3 channels


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.COMPILERS, DEVICE, triton_compiled)


def single(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(0.7, dtype=dtype)


def channels(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([0.5, 0.7, 1.1], dtype=dtype).view(3, 1, 1)


def leaf(value: Tensor) -> Tensor:
    return value.to(DEVICE).detach().requires_grad_()


def both(neuron: Neuron, current: Tensor, state: State | None) -> None:
    """Run a neuron through kernels and eagerly: equal outputs, gradients equal to rounding."""
    neuron = neuron.to(DEVICE)
    learned = [p for p in neuron.parameters() if p.requires_grad]
    given = [] if state is None else [leaf(part) for part in parts_of(state)]

    def run(by: Callable[..., tuple[Tensor, State]]) -> tuple[list[Tensor], list[Tensor | None]]:
        torch.manual_seed(1)
        x = leaf(current)
        before = None if state is None else state._replace(
            membrane=given[0], tracer=given[1] if len(given) > 1 else None
        )  # fmt: skip
        spikes, after = by(neuron, x, before)
        outputs = [spikes, *parts_of(after)]
        kept = [one for one in outputs if one.requires_grad]
        weights = [torch.randn(one.shape).to(one) for one in kept]
        asked = [x, *given, *learned]
        return outputs, list(torch.autograd.grad(kept, asked, weights, allow_unused=True))

    outputs, grads = run(lambda n, x, s: run_planned(plan(n, x, s), x, s, MADE))
    wanted, slopes = run(run_eagerly)
    for found, right in zip(outputs, wanted, strict=True):
        assert found.dtype == right.dtype
        assert torch.equal(found, right)
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 2e-6, torch.float64: 1e-13}[wanted[0].dtype]
    for got, slope in zip(grads, slopes, strict=True):
        given_grad = torch.zeros(()).to(outputs[0]) if slope is None else slope
        scale = float(given_grad.abs().max()) + 1e-6
        near = torch.zeros_like(given_grad) if got is None else got
        assert float((near - given_grad).abs().max()) <= tolerance * scale


def currents(steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(steps, *SHAPE) * 0.6 + 0.3).to(dtype)


@pytest.mark.parametrize("slope", SLOPES, ids=lambda slope: type(slope).__name__)
def test_every_slope(slope: Surrogate) -> None:
    both(IF(single(), initial=0.5, firing=Firing(surrogate=slope)), currents(2), None)


CASES: dict[str, Callable[[Tensor], Neuron]] = {
    "IF hard": lambda t: IF(t, firing=HARD),
    "LIF": lambda t: LIF(t, leak=0.75, firing=Firing(detach_reset=False)),
    "LIF by channel": lambda t: LIF(t, leak=torch.tensor([0.5, 0.75, 1.0]).to(t).view(3, 1, 1)),
    "PLIF": lambda t: PLIF(t, decay=0.0, firing=replace(HARD, reset=HardReset(0.25))),
    "Ternary": lambda t: SignedIF(t, initial=0.5, firing=Firing(detach_reset=False)),
    "Ternary limited": lambda t: SignedIF(t, limit=2),
    "Burst": lambda t: Burst(t, most=3, ceiling=2.0),
    "Rate": lambda t: Graded(t, levels=4, ceiling=t * 2),
    "Differential": lambda t: Graded(t, levels=4, spikes=2, drive=1, floor=None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_neuron(name: str) -> None:
    both(CASES[name](channels()), currents(3), None)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("LIF", torch.float64), ("Rate", torch.float64), ("PLIF", torch.bfloat16),
        ("Ternary limited", torch.bfloat16), ("Rate", torch.bfloat16),
    ],
)  # fmt: skip
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    both(CASES[name](single(dtype)), currents(2, dtype), None)


def test_half_currents_of_a_neuron_in_full_precision() -> None:
    both(CASES["LIF"](channels()), currents(2, torch.bfloat16), None)


@pytest.mark.parametrize(
    ("name", "by"), [("LIF", channels), ("Ternary limited", single), ("Rate", single)]
)
def test_a_state_that_is_carried_over_stretches(name: str, by: Callable[[], Tensor]) -> None:
    tracer = None if name == "LIF" else torch.rand(SHAPE).round()
    both(CASES[name](by()), currents(9), State(torch.randn(SHAPE), tracer, 2))


def test_an_image_that_stands_still() -> None:
    both(IF(single()), torch.rand(1, *SHAPE).expand(4, *SHAPE), None)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    kind=st.sampled_from([(1, True), (3, False), (8, True)]), batch=st.integers(1, 4),
    width=st.integers(1, 2 * BLOCK // 3), sevenths=st.integers(1, 24), seed=st.integers(0, 99),
)  # fmt: skip
def test_spikes_at_the_very_threshold(
    kind: tuple[int, bool], batch: int, width: int, sevenths: int, seed: int
) -> None:
    steps, wide = kind
    # Currents in small fractions of the threshold meet it exactly, again and again.
    torch.manual_seed(seed)
    value = torch.full((width,) if wide else (), sevenths / 7)
    threshold = value * torch.arange(1, width + 1) if wide else value
    current = threshold * torch.randint(-2, 5, (steps, batch, width)) / 3
    both(IF(threshold, firing=Firing(detach_reset=False)), current, None)


def launched(function: Callable[..., Any], *examples: Tensor) -> Callable[..., Any]:
    return triton_compiled(function, [example.to(DEVICE) for example in examples])


def test_nan_and_infinity_pass_as_the_reference_lets_them() -> None:
    hard = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.0, -2.5])
    x, y = (part.flatten()[None].to(DEVICE) for part in torch.meshgrid(hard, hard, indexing="ij"))

    def function(out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        out.copy_(x.clamp(-1, 1))
        a, b = x[0], y[0]
        return (a.minimum(b), a.maximum(b), a / b, a.copysign(b), -a, a.floor() + a.trunc(),
                torch.where(a >= b, a, 0.5), a.sign() * 2, (a > 0) & (b > 0), a**3 - b**2,
                a.sqrt(), 1 / a)  # fmt: skip

    out, right = torch.empty_like(x), torch.empty_like(x)
    found, wanted = launched(function, out, x, y)(out, x, y), function(right, x, y)
    for got, one in zip((out, *found), (right, *wanted), strict=True):
        assert torch.equal(got.isnan(), one.isnan())
        assert torch.equal(got.nan_to_num(7.0), one.nan_to_num(7.0))
    signs = found[4].signbit()
    assert torch.equal(signs[~found[4].isnan()], wanted[4].signbit()[~found[4].isnan()])


def test_numbers_meet_bfloat16_as_in_the_reference() -> None:
    x = torch.randn(1, 4000).bfloat16().to(DEVICE)

    def function(out: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        out.copy_(x * 0.3)
        a = x[0]
        return a + 0.3, 0.3 - a, a / 0.3, a.abs() <= 0.3, a**3, torch.where(a > 0, a, 0.3)

    out, right = torch.empty_like(x), torch.empty_like(x)
    found, wanted = launched(function, out, x)(out, x), function(right, x)
    for got, one in zip((out, *found), (right, *wanted), strict=True):
        assert torch.equal(got, one)


def test_steps_of_any_stride_and_tensors_of_other_strides() -> None:
    def function(out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor]:
        out.copy_(x + y)
        return (2 * y,)

    kernel = launched(function, torch.empty(2, 6, 5), torch.empty(2, 6, 5), torch.empty(6, 5))
    out = torch.zeros(5, 3, 7, 2, device=DEVICE)
    x, y = torch.randn(2, 7, 3, device=DEVICE), torch.randn(7, 3, device=DEVICE)
    (double,) = kernel(out[1:3].transpose(1, 3)[:, 0], x, y)
    written = out[1:3, :, :, 0].transpose(1, 2)
    assert torch.equal(written, x + y) and torch.equal(double, 2 * y)
    assert not out[3:].any() and not out[:1].any() and not out[..., 1].any()
    (double,) = kernel(torch.empty(2, 3, 7, device=DEVICE), x.mT, y.T)
    assert torch.equal(double, 2 * y.T)


def test_nothing_is_launched_over_nothing() -> None:
    def function(out: Tensor, x: Tensor) -> tuple[Tensor]:
        out.copy_(x)
        return (x[0],)

    kernel = launched(function, torch.empty(2, 5), torch.empty(2, 5))
    empty = torch.empty(2, 0, device=DEVICE)
    assert kernel(empty, empty)[0].shape == (0,)


def test_tensors_of_other_shapes_are_refused() -> None:
    def function(out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor]:
        out.copy_(x + y)
        return (y,)

    kernel = launched(function, torch.empty(2, 5), torch.empty(2, 5), torch.empty(5))
    x = torch.empty(2, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"\[1\] where places are \[4\]"):
        kernel(x, x, x[0, :1])
