"""Neurons through kernels against their own eager steps: equal spikes, equal gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spiketune.snn import (
    IF,
    LIF,
    ATan,
    Burst,
    Firing,
    Graded,
    HardReset,
    Linear,
    Neuron,
    PiecewiseLinear,
    Rectangle,
    Sigmoid,
    SignedIF,
    State,
    SuperSpike,
    Surrogate,
    Triangle,
)
from spiketune.snn.fused import paths
from spiketune.snn.fused.choices import neuron_path
from spiketune.snn.surrogate import Scaled

NEURONS: dict[str, Callable[[Tensor], Neuron]] = {
    "IF": lambda th: IF(th, initial=0.5),
    "LIF, hard, reset in the gradient": lambda th: LIF(
        th, leak=0.9, firing=Firing(reset=HardReset(0.1), detach_reset=False)
    ),
    "signed": lambda th: SignedIF(th, initial=0.5),
    "graded, rate": lambda th: Graded(th, levels=4, spikes=2),
    "burst": lambda th: Burst(th),
    "graded, differential": lambda th: Graded(th, levels=4, drive=1),
}
THRESHOLDS = {
    "layer": torch.tensor(0.7),
    "channel": torch.tensor([0.5, 0.7, 1.1]).view(3, 1, 1),
}


def outcome(neuron: Neuron, path: str, *, steps: int = 3, last: bool = False) -> list[Tensor]:
    """Return spikes, membrane and gradients of two runs, one after the other."""
    draw = torch.Generator().manual_seed(0)
    dtype = neuron.threshold.dtype
    x = torch.randn(steps, 2, 3, 5, 3, generator=draw, dtype=dtype)
    if last:
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (steps, 2))
    weights = torch.randn(3, *x.shape, generator=draw, dtype=dtype)
    x.requires_grad_()
    neuron.zero_grad()
    with neuron_path(path):
        first, state = neuron.requires_grad_()(x)
        then, state = neuron(x.flip(0), state)
        loss = (first * weights[0] + then * weights[1]).sum()
        (loss + (state.membrane * weights[2, 0]).sum()).backward()
    assert x.grad is not None and first.any()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in neuron.parameters()]
    return [first, then, state.membrane, x.grad, *grads]


def agree(neuron: Neuron, *, steps: int = 3, last: bool = False) -> None:
    """Compare both ways: bits of spikes and membranes, gradients to rounding."""
    eager = outcome(neuron, "eager", steps=steps, last=last)
    compiled = outcome(neuron, "compiled", steps=steps, last=last)
    for one, other in zip(eager[:3], compiled[:3], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(eager[3:], compiled[3:], strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("kind", NEURONS)
def test_kernels_do_what_the_steps_do(kind: str, threshold: str) -> None:
    agree(NEURONS[kind](THRESHOLDS[threshold]), last=threshold == "channel")


def test_thresholds_by_neuron_and_long_runs_in_float64() -> None:
    agree(IF(torch.rand(3, 5, 3, dtype=torch.float64) + 0.5), steps=19)


@pytest.mark.parametrize(
    "slope",
    [ATan(), SuperSpike(), Sigmoid(), Rectangle(), PiecewiseLinear(), Linear(),
     Scaled(surrogate=Triangle(), gain=0.3)],
    ids=str,
)  # fmt: skip
def test_every_slope(slope: Surrogate) -> None:
    neuron = LIF(torch.tensor(0.7), leak=0.8, firing=Firing(surrogate=slope, strict=True))
    agree(neuron, steps=2)


def test_one_kernel_serves_every_length_and_gain() -> None:
    def one(gain: float) -> None:
        firing = Firing(surrogate=Scaled(surrogate=Triangle(), gain=gain))
        agree(IF(torch.tensor(0.6), firing=firing), steps=16)

    one(0.7)
    made = len(paths._ways.kernels.made)
    one(1.3)
    assert len(paths._ways.kernels.made) == made


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 7)] * 4),
    channels=st.booleans(),
    last=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_size_in_any_layout(
    sizes: tuple[int, int, int, int], channels: bool, last: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    threshold = torch.rand(sizes[1], 1, 1) + 0.3 if channels else torch.tensor(0.7)
    x, weights = torch.randn(2, 3, *sizes)
    if last:
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, sizes[0]))
    found = []
    for path in ("eager", "compiled"):
        leaf = x.clone().requires_grad_()
        with neuron_path(path):
            spikes, state = IF(threshold)(leaf)
        (spikes * weights).sum().backward()
        found.append((spikes, state.membrane, leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_256_steps() -> None:
    x = torch.randn(256, 2, 7)
    neuron = IF(torch.tensor(0.9))
    with neuron_path("compiled"), torch.no_grad():
        found, state = neuron(x)
    membrane = torch.zeros(2, 7)
    for t, now in enumerate(x):
        membrane = membrane + now
        spikes = (membrane / 0.9 >= 1).float()
        membrane = membrane - torch.tensor(0.9) * spikes
        assert torch.equal(found[t], torch.tensor(0.9) * spikes)
    assert torch.equal(state.membrane, membrane)


def test_currents_in_half_precision_keep_membranes_in_single() -> None:
    x = torch.randn(4, 2, 9).bfloat16().requires_grad_()
    weights = torch.randn(4, 2, 9)
    found = []
    for path in ("eager", "compiled"):
        x.grad = None
        with neuron_path(path):
            spikes, state = IF(torch.tensor(0.7))(x)
        (spikes * weights).sum().backward()
        assert spikes.dtype == state.membrane.dtype == torch.float32 and x.grad is not None
        found.append((spikes, state.membrane, x.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_current_that_stands_still_is_read_once() -> None:
    image, weights = torch.randn(2, 3, 4), torch.randn(11, 2, 3, 4)
    found = []
    for path in ("eager", "compiled"):
        leaf = image.clone().requires_grad_()
        with neuron_path(path):
            spikes, _ = IF(torch.tensor(0.7))((2 * leaf).expand(11, 2, 3, 4))
        (spikes * weights).sum().backward()
        found.append((spikes, leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1])


def test_what_only_looks_still_is_not_taken_for_it() -> None:
    image, weights = torch.randn(3, 3), torch.randn(5, 3, 3)
    turned = [image.t().expand(5, 3, 3), image.expand(5, 3, 3).clone().requires_grad_()]
    asked = image.expand(5, 3, 3).requires_grad_()  # its own gradient is wanted, not the image's
    for current in (*turned, asked):
        found = []
        for path in ("eager", "compiled"):
            current.grad = None
            with neuron_path(path):
                spikes, _ = IF(torch.tensor(0.4))(current)
            if current.requires_grad:
                (spikes * weights).sum().backward()
            found.append((spikes, current.grad))
        assert torch.equal(found[0][0], found[1][0])
        assert (found[0][1] is None) is (found[1][1] is None)
        if found[0][1] is not None:
            torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_time_may_lie_anywhere_in_memory(path: str) -> None:
    data = torch.randn(2, 3, 6, requires_grad=True)
    with neuron_path(path):
        IF(torch.tensor(0.4))(data.permute(2, 0, 1))[0].sum().backward()
    assert data.grad is not None and data.grad.any()


def test_one_neuron_without_a_batch() -> None:
    with neuron_path("compiled"):
        spikes, state = IF(torch.tensor(1.0))(torch.tensor([0.6, 0.6, 0.6, 0.5]))
    assert spikes.tolist() == [0.0, 1.0, 0.0, 1.0] and state.membrane.shape == ()


class Fading(IF):
    """A neuron of a user's own, whose attribute is in no list."""

    fade = 1.0

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        return self.fade * membrane + current


def test_neurons_of_a_users_own_are_told_apart() -> None:
    sums = []
    for fade in (1.0, 0.1):
        neuron = Fading(torch.tensor(1.0))
        neuron.fade = fade
        with neuron_path("compiled"):
            sums.append(neuron(torch.full((10, 1), 0.6))[0].sum().item())
    assert sums == [6.0, 0.0]


def test_thresholds_and_states_of_another_shape_or_precision() -> None:
    current = torch.rand(3, 2, 4)
    for neuron, state in (
        (IF(torch.rand(1, 4) + 0.5), None),
        (IF(torch.rand(2, 4) + 0.5), None),
        (IF(torch.tensor(0.6)), State(torch.rand(2, 4, dtype=torch.float64))),
        (IF(torch.tensor(0.6)), State(torch.rand(1))),
    ):
        with neuron_path("eager"):
            wanted, after = neuron(current, state)
        with neuron_path("auto"), warnings.catch_warnings(), mock.patch.object(paths, "WORTH", 0):
            warnings.simplefilter("ignore")  # a setting for each image has no kernel
            found, then = neuron(current, state)
        assert torch.equal(found, wanted) and torch.equal(then.membrane, after.membrane)
        assert found.dtype == wanted.dtype
