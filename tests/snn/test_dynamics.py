"""The neurons against a NumPy loop, closed forms and autograd of the same forward by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spiketune.snn import IF, LIF, Firing, HardReset, Neuron, Sigmoid, SignedIF, SoftReset, State

Array = NDArray[np.float64]
quick = settings(max_examples=80, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Case:
    current: Array  # [T, B, C, W]
    theta: Array
    initial: Array  # in thresholds
    leak: float
    to: float | None  # hard reset to that value; None resets softly
    strict: bool
    limit: int | None

    @property
    def firing(self) -> Firing:
        return Firing(
            reset=SoftReset() if self.to is None else HardReset(to=self.to), strict=self.strict
        )


def reference(case: Case, signed: bool = False) -> tuple[Array, Array]:
    """Return the spikes and the last membrane, as the equations in the papers stand."""
    v = np.broadcast_to(case.initial * case.theta, case.current.shape[1:])
    sent, spikes = np.zeros_like(v), []
    for c in case.current:
        v = case.leak * v + c
        s = (v > case.theta if case.strict else v >= case.theta).astype(float)
        if signed:
            s *= sent < (np.inf if case.limit is None else case.limit)
            s -= (v < 0) & (sent > 0)
        v = v - case.theta * s if case.to is None else np.where(s == 1, case.to, v)
        sent = sent + s
        spikes.append(s)
    return np.stack(spikes), v


@st.composite
def cases(draw: st.DrawFn, dyadic: bool = False) -> Case:
    steps, batch, channels, width = (draw(st.integers(1, top)) for top in (14, 3, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(), (channels, 1), (channels, width)]))
    current = rng.normal(0.3, 0.8, (steps, batch, channels, width))
    theta = rng.uniform(0.2, 1.5, shape)
    initial = rng.uniform(-0.5, 1.2, draw(st.sampled_from([(), shape])))
    if dyadic:
        current, initial = np.round(current * 64) / 64, np.round(initial * 4) / 4
        theta = 2.0 ** rng.integers(-3, 2, shape)
    return Case(
        current=current,
        theta=np.asarray(theta),
        initial=np.asarray(initial),
        leak=draw(st.sampled_from([0.25, 0.5, 1.0] if dyadic else [0.3, 0.9, 1.0])),
        to=draw(st.sampled_from([None, 0.0, -0.25])),
        strict=draw(st.booleans()),
        limit=draw(st.sampled_from([None, 1, 3])),
    )


def run(neuron: Neuron, case: Case) -> tuple[Array, Array]:
    with torch.no_grad():
        out, state = neuron(torch.from_numpy(case.current))
    return out.numpy(), state.membrane.numpy()


def agree(neuron: Neuron, case: Case, signed: bool = False) -> None:
    spikes, membrane = reference(case, signed)
    found, last = run(neuron, case)
    np.testing.assert_array_equal(found, spikes * case.theta)
    np.testing.assert_array_equal(last, membrane)


@given(cases() | cases(dyadic=True))
@quick
def test_leaky_neurons_equal_a_numpy_loop_exactly(case: Case) -> None:
    theta, initial = torch.from_numpy(case.theta), torch.from_numpy(case.initial)
    agree(LIF(theta, leak=case.leak, initial=initial, firing=case.firing), case)


@given(cases() | cases(dyadic=True))
@quick
def test_neurons_without_leak_equal_a_numpy_loop_exactly(case: Case) -> None:
    case = Case(**{**vars(case), "leak": 1.0})
    theta, initial = torch.from_numpy(case.theta), torch.from_numpy(case.initial)
    agree(IF(theta, initial=initial, firing=case.firing), case)


@given(cases() | cases(dyadic=True))
@quick
def test_signed_neurons_equal_a_numpy_loop_exactly(case: Case) -> None:
    case = Case(**{**vars(case), "leak": 1.0, "to": None})
    theta, initial = torch.from_numpy(case.theta), torch.from_numpy(case.initial)
    neuron = SignedIF(theta, limit=case.limit, initial=initial, firing=case.firing)
    agree(neuron, case, signed=True)


def test_the_reference_sees_every_kind_of_spike() -> None:
    current = np.array([1.5, -1.5, 0.75, -2.0, 2.0]).reshape(5, 1, 1, 1)
    case = Case(current, np.array(1.0), np.array(0.0), 1.0, None, False, None)
    assert reference(case, signed=True)[0].flatten().tolist() == [1, -1, 0, 0, 0]
    agree(SignedIF(torch.tensor(1.0, dtype=torch.float64)), case, signed=True)


@pytest.mark.parametrize(("strict", "spikes"), [(False, 1.0), (True, 0.0)])
@pytest.mark.parametrize("neuron", [IF, SignedIF])
def test_a_membrane_exactly_at_the_threshold(
    neuron: type[Neuron], strict: bool, spikes: float
) -> None:
    for theta in (0.1, 0.3, 1.0, 1.9999999, 7e-5):
        unit = neuron(torch.tensor(theta), firing=Firing(strict=strict))
        at = unit.threshold.detach().view(1, 1)
        assert float(unit(at)[0] / at) == spikes
        assert float(unit(torch.nextafter(at, at * 0))[0]) == 0.0
        assert float(unit(torch.nextafter(at, at * 2))[0] / at) == 1.0


def test_a_membrane_at_exactly_zero_takes_nothing_back() -> None:
    spikes, _ = SignedIF(torch.tensor(1.0))(torch.tensor([[1.0], [0.0], [0.0]]))
    assert spikes.flatten().tolist() == [1, 0, 0]


@given(cases())
@quick
def test_soft_reset_conserves_charge(case: Case) -> None:
    theta, initial = torch.from_numpy(case.theta), torch.from_numpy(case.initial)
    for neuron in (IF(theta, initial=initial), SignedIF(theta, initial=initial, limit=case.limit)):
        out, last = run(neuron, case)
        start = np.broadcast_to(case.initial * case.theta, last.shape)
        np.testing.assert_allclose(case.current.sum(0), out.sum(0) + last - start, atol=1e-12)


@given(st.integers(1, 40), st.integers(-64, 200), st.sampled_from([0.25, 1.0, 2.0]))
@quick
def test_a_constant_current_is_rounded_down_to_a_number_of_spikes(
    steps: int, grains: int, theta: float
) -> None:
    z = grains / 64
    for initial in (0.0, 0.5):
        counted = np.clip(np.floor(steps * z / theta + initial), 0, steps)
        unit = IF(torch.tensor(theta, dtype=torch.float64), initial=initial)
        out, _ = unit(torch.full((steps, 1), z, dtype=torch.float64))
        assert float(out.sum()) == theta * counted
        bound = theta / steps * (1 if initial == 0 else 0.5)
        assert abs(float(out.mean()) - np.clip(z, 0, theta)) <= bound


@given(cases(dyadic=True), st.sampled_from([None, 1, 2, 5]))
@quick
def test_a_quiet_signed_neuron_holds_the_quantised_sum(case: Case, limit: int | None) -> None:
    drive = torch.from_numpy(case.current)
    rest = int(abs(case.current).sum(0).max() / case.theta.min()) + 2
    current = torch.cat([drive, torch.zeros(rest, *drive.shape[1:], dtype=drive.dtype)])
    out, state = SignedIF(torch.from_numpy(case.theta), initial=0.5, limit=limit)(current)
    assert not out[-1].any(), "not quiet yet"
    top = np.inf if limit is None else limit
    # The tracer starts empty, so what never fired stays at zero whatever its membrane.
    expected = np.clip(np.floor(case.current.sum(0) / case.theta + 0.5), 0, top)
    np.testing.assert_array_equal(state.tracer.numpy(), expected)
    np.testing.assert_array_equal(out.sum(0).numpy(), expected * case.theta)


def by_hand(current: Tensor, theta: Tensor, leak: Tensor, case: Case, signed: bool) -> Tensor:
    """The same forward in plain torch: a logistic stands behind each step of Heaviside."""

    def spike(x: Tensor, strict: bool) -> Tensor:
        soft = torch.sigmoid(3.0 * x)
        hard = (x > 0 if strict else x >= 0).to(x.dtype)
        return hard + soft - soft.detach()

    detach = case.limit == 1  # the case's limit doubles as the switch
    v = 0.5 * theta * torch.ones_like(current[0])
    sent, outputs = torch.zeros_like(v), []
    for c in current:
        v = leak * v + c
        s = spike(v / theta - 1, case.strict)
        if signed:
            s = s * (sent < 2) - spike(-v / theta, True) * (sent > 0)
            sent = sent + s.detach().round()
        outputs.append(theta * s)
        r = s.detach() if detach else s
        v = v - theta * r if case.to is None else v * (1 - r) + case.to * r
    return torch.stack(outputs)


@given(cases(), st.sampled_from(["IF", "LIF", "SignedIF"]), st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_gradients_equal_autograd_of_the_forward_by_hand(
    case: Case, kind: str, detach: bool
) -> None:
    signed = kind == "SignedIF"
    case = Case(**{**vars(case), "limit": 1 if detach else 2, "to": None if signed else case.to})
    firing = Firing(
        reset=case.firing.reset,
        strict=case.strict,
        surrogate=Sigmoid(alpha=3.0),
        detach_reset=detach,
    )
    theta = torch.from_numpy(case.theta)
    make: dict[str, Callable[[], Neuron]] = {
        "IF": lambda: IF(theta, initial=0.5, firing=firing),
        "LIF": lambda: LIF(theta, leak=0.8, initial=0.5, firing=firing),
        "SignedIF": lambda: SignedIF(theta, initial=0.5, limit=2, firing=firing),
    }
    unit = make[kind]().requires_grad_(True)
    current = torch.from_numpy(case.current).requires_grad_(True)
    weight = torch.linspace(-1, 2, current.numel(), dtype=torch.float64).view_as(current)
    inputs = [current, *unit.parameters()]
    out, _ = unit(current)
    found = torch.autograd.grad((out * weight).sum(), inputs)

    theta = theta.clone().requires_grad_(True)
    leak = torch.tensor(0.8 if kind == "LIF" else 1.0, dtype=torch.float64, requires_grad=True)
    expected_out = by_hand(current, theta, leak, case, signed)
    leaves = [current, theta, leak][: len(inputs)]
    expected = torch.autograd.grad((expected_out * weight).sum(), leaves)
    torch.testing.assert_close(out, expected_out, rtol=0, atol=1e-15)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 4, 9])
@pytest.mark.parametrize("kind", [IF, SignedIF, lambda theta: LIF(theta, leak=0.7)])
def test_a_state_handed_on_continues_where_it_stopped(
    kind: Callable[[Tensor], Neuron], cut: int
) -> None:
    unit = kind(torch.tensor(0.7))
    current = torch.randn(10, 2, 5)
    whole, end = unit(current)
    first, state = unit(current[:cut])
    second, state = unit(current[cut:], state)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(end.membrane, state.membrane)


def test_half_precision_currents_are_summed_in_single() -> None:
    out, state = IF(torch.tensor(1.0))(torch.full((8, 1), 0.3, dtype=torch.bfloat16))
    assert out.dtype == state.membrane.dtype == torch.float32


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_must_be_above_zero(threshold: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        IF(torch.tensor([1.0, threshold]))


@pytest.mark.parametrize("leak", [0.0, -0.5, 1.1, float("nan")])
def test_a_leak_must_lie_above_zero_and_not_above_one(leak: float) -> None:
    with pytest.raises(ValueError, match="leak"):
        LIF(torch.tensor(1.0), leak=leak)


def test_a_signed_neuron_refuses_a_hard_reset_and_a_state_without_tracer() -> None:
    with pytest.raises(ValueError, match="softly"):
        SignedIF(torch.tensor(1.0), firing=Firing(reset=HardReset()))
    with pytest.raises(ValueError, match="tracer"):
        SignedIF(torch.tensor(1.0))(torch.zeros(1, 1), State(torch.zeros(1)))
