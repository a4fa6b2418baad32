"""Spike response neurons against golden numbers, kernels written out in NumPy, and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

import spiketune as st
from spiketune.snn import SRM, Firing, HardReset, Laplace, SpiketuneError, alpha_filter, srm
from spiketune.zoo import ModelError

STEPS = 30


def kernel(tau: float, steps: int = STEPS) -> np.ndarray:
    n = np.arange(steps)
    return n / tau * np.exp(1 - n / tau)


def toeplitz(response: np.ndarray) -> np.ndarray:
    """Return ``M`` with ``(k * x)[t] = Σ M[t, s] x[s]``."""
    steps = len(response)
    lag = np.arange(steps)[:, None] - np.arange(steps)[None]
    return np.where(lag >= 0, response[np.abs(lag)], 0.0)


def by_hand(
    current: np.ndarray, threshold: float, taus: tuple[float, float], refractory: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return membranes and spikes ``[T, N]``, each a sum over all that came before."""
    membrane = toeplitz(kernel(taus[0], len(current))) @ current
    after = -refractory * threshold * kernel(taus[1], len(current))
    spikes = np.zeros_like(current)
    for t in range(len(current)):
        spikes[t] = membrane[t] >= threshold
        membrane[t + 1 :] += after[1 : len(current) - t, None] * spikes[t]
    return membrane, spikes


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=make, dtype=torch.float64)


def neuron(
    threshold: float = 1.0, taus: tuple[float, float] = (4.0, 1.5), *, detach: bool = True
) -> SRM:
    firing = Firing(surrogate=Laplace(scale=0.8, width=0.6), detach_reset=detach)
    held = torch.tensor(threshold, dtype=torch.float64)
    return SRM(held, tau_synapse=taus[0], tau_refractory=taus[1], firing=firing)


def test_the_notes_neuron_fires_when_the_notes_say() -> None:
    current = torch.zeros(40, 1, dtype=torch.float64)
    current[[1, 3, 5]] = 7.0
    spikes, _ = SRM(torch.tensor(10.0, dtype=torch.float64))(current)
    assert spikes.flatten().nonzero().flatten().tolist() == [6, 9, 12, 15, 18, 22, 27]
    assert spikes.unique().tolist() == [0.0, 10.0]
    assert alpha_filter(current / 7, 10.0)[10].item() == pytest.approx(2.763916, abs=1e-6)


def test_the_escape_rate_is_the_notes() -> None:
    membranes = torch.tensor([10.0, 5.0, 15.0])
    rate = Laplace().slope(membranes / 10 - 1) / 10
    assert rate.tolist() == pytest.approx([0.1, 0.060653, 0.060653], abs=1e-6)
    halves = Laplace(scale=3.0, width=0.5).slope(torch.linspace(-40, 40, 800_001))
    assert halves.mean().item() * 80 == pytest.approx(6.0, rel=1e-3)  # its area


@settings(max_examples=25, deadline=None)
@given(
    some.floats(0.5, 12.0), some.floats(0.4, 6.0), some.floats(0.0, 4.0), some.integers(0, 10**6)
)
def test_spikes_and_membranes_are_those_of_kernels_written_out(
    tau: float, tau_refractory: float, refractory: float, seed: int
) -> None:
    current = drawn(STEPS, 5, seed=seed, scale=1.5 / tau)
    unit = SRM(
        torch.tensor(0.7, dtype=torch.float64),
        tau_synapse=tau, tau_refractory=tau_refractory, refractory=refractory,
    )  # fmt: skip
    spikes, state = unit(current)
    expected, fired = by_hand(current.numpy(), 0.7, (tau, tau_refractory), refractory)
    if np.abs(expected - 0.7).min() < 1e-9:
        return  # too near the threshold to tell
    assert np.array_equal((spikes / 0.7).numpy(), fired)
    held_back = 0.7 * state.extra[0]
    np.testing.assert_allclose((state.membrane - held_back).numpy(), expected[-1], atol=1e-11)


def test_a_run_in_pieces_is_the_run_in_one() -> None:
    current, unit = drawn(STEPS, 2, 6, scale=0.5), neuron()
    whole, last = unit(current)
    state, pieces = None, []
    for piece in current.split([1, 7, 2, 20]):
        sent, state = unit(piece, state)
        pieces.append(sent)
    assert whole.any() and torch.equal(torch.cat(pieces), whole)
    assert state is not None
    for one, other in zip(state.extra, last.extra, strict=True):
        assert torch.equal(one, other)


def test_the_filter_is_the_sum_and_its_gradient_the_adjoint() -> None:
    for tau in (0.7, 3.0, 10.0):
        x, y = drawn(STEPS, 2, seed=1).requires_grad_(), drawn(STEPS, 2, seed=2)
        filtered = alpha_filter(x, tau)
        matrix = torch.tensor(toeplitz(kernel(tau)))
        torch.testing.assert_close(filtered, matrix @ x, rtol=0, atol=1e-12)
        (found,) = torch.autograd.grad(filtered, x, y)
        torch.testing.assert_close(found, matrix.T @ y, rtol=0, atol=1e-12)
        assert (filtered * y).sum().item() == pytest.approx((x * found).sum().item(), abs=1e-11)


def test_without_the_refractory_path_credit_is_the_correlation_with_the_kernel() -> None:
    """``∂L/∂c[t] = Σ_{k>=t} ε[k-t] ρ(u[k]) g[k]``, written out."""
    current, upstream = drawn(STEPS, 6, scale=0.5).requires_grad_(), drawn(STEPS, 6, seed=3)
    unit = neuron(1.3)
    spikes, _ = unit(current[:, None])
    (found,) = torch.autograd.grad(spikes, current, upstream[:, None])
    membrane, fired = by_hand(current.detach().numpy(), 1.3, (4.0, 1.5), 2.0)
    rate = 0.8 / 0.6 * np.exp(-np.abs(membrane / 1.3 - 1) / 0.6) / 1.3
    expected = toeplitz(kernel(4.0)).T @ (rate * 1.3 * upstream.numpy())
    assert fired.any()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_with_it_credit_solves_the_whole_chain() -> None:
    """``e = ρ (g + Nᵀ e)`` with the matrix ``N`` of the refractory kernel, solved at once."""
    current, upstream = drawn(STEPS, 6, scale=0.5).requires_grad_(), drawn(STEPS, 6, seed=3)
    spikes, _ = neuron(1.3, detach=False)(current[:, None])
    (found,) = torch.autograd.grad(spikes, current, upstream[:, None])
    membrane, _ = by_hand(current.detach().numpy(), 1.3, (4.0, 1.5), 2.0)
    rate = 0.8 / 0.6 * np.exp(-np.abs(membrane / 1.3 - 1) / 0.6) / 1.3
    back = toeplitz(-2.0 * 1.3 * kernel(1.5)).T
    for place in range(6):
        h = np.diag(rate[:, place])
        error = np.linalg.solve(np.eye(STEPS) - h @ back, h @ (1.3 * upstream.numpy()[:, place]))
        expected = toeplitz(kernel(4.0)).T @ error
        np.testing.assert_allclose(found[:, place].numpy(), expected, atol=1e-11)


def test_gradients_are_finite_differences_once_spikes_are_smooth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The integral of the slope in the place of the step: then there is something to differ."""

    def smooth(distance: Tensor, surrogate: Laplace, *, strict: bool = False) -> Tensor:
        falls = (-distance.abs() / surrogate.width).exp()
        area: Tensor = surrogate.scale * torch.where(distance < 0, falls, 2 - falls)
        return area

    monkeypatch.setattr(srm, "fire", smooth)
    unit = neuron(detach=False)
    unit.threshold.requires_grad_()
    current = drawn(7, 1, 2, scale=0.5).requires_grad_()

    def run(given: Tensor, threshold: Tensor) -> Tensor:
        unit.threshold.data = threshold.data
        sent: Tensor = torch.func.functional_call(unit, {"threshold": threshold}, (given,))[0]
        return sent

    threshold = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with st.neuron_path("eager"):
        assert torch.autograd.gradcheck(run, (current, threshold))


def test_kernels_say_what_the_steps_say() -> None:
    found = []
    for path in ("eager", "compiled"):
        current = drawn(8, 3, 7, scale=1.0).float().requires_grad_()
        unit = neuron().float()
        with st.neuron_path(path):
            first, state = unit(current[:4])
            second, state = unit(current[4:], state)
            sent = torch.cat([first, second])
            (grad,) = torch.autograd.grad(sent.square().sum(), current)
        found.append((sent.detach(), grad, state.membrane, *state.extra))
    (sent, grad, *parts), (compiled, other, *others) = found
    assert sent.any() and torch.equal(sent, compiled)
    torch.testing.assert_close(grad, other, rtol=1e-5, atol=1e-6)
    for one, two in zip(parts, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_a_kernel_is_cut_off_nowhere() -> None:
    """The authors cut theirs below 0.01: what they leave out of a response is less than that."""
    spike = torch.zeros(200, 1, dtype=torch.float64)
    spike[0] = 1
    response = alpha_filter(spike, 10.0).flatten()
    assert (response[1:] > 0).all() and response.argmax() == 10
    assert response.sum().item() == pytest.approx(10 * math.e, rel=1e-2)
    assert response[77:].max() < 0.01 < response[60]


def test_what_makes_no_sense_is_refused() -> None:
    one = torch.ones(())
    with pytest.raises(SpiketuneError, match="tau_synapse must be above 0 steps, not 0"):
        SRM(one, tau_synapse=0)
    with pytest.raises(SpiketuneError, match="tau_refractory must be above 0 steps, not nan"):
        SRM(one, tau_refractory=float("nan"))
    for wrong in (-1, "3", True, float("nan"), float("inf"), torch.tensor(3.0)):
        with pytest.raises(SpiketuneError, match="tau_synapse must be above 0 steps, not"):
            SRM(one, tau_synapse=wrong)  # type: ignore[arg-type]
        with pytest.raises(SpiketuneError, match="refractory must be 0 thresholds or more, not"):
            SRM(one, refractory=wrong)  # type: ignore[arg-type]
        with pytest.raises(SpiketuneError, match="Laplace: width must be above zero, not"):
            Laplace(width=wrong)  # type: ignore[arg-type]
    with pytest.raises(SpiketuneError, match="never resets"):
        SRM(one, firing=Firing(reset=HardReset()))
    with pytest.raises(SpiketuneError, match="scale must be above zero, not 0"):
        Laplace(scale=0)
    with pytest.raises(ModelError, match="no current makes an SRMNeuron fire"):
        st.SRMNeuron().drive()
