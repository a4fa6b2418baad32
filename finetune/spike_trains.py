"""What one spike train does to another: the sums over time that HM2-BP and ST-RSBP live on.

The train of neuron ``j`` reaches neuron ``i`` as ``p_j[t] = r p_j[t-1] + s_j[t-1]``. What it puts
on ``i``'s membrane, added up over ``i``'s spikes, each of which wipes the membrane out, is

    ``e_ij = 1/τ_s Σ_t R_i[t] p_j[t]``, ``R_i[t] = λ^(t_f - t)``,

``t_f`` the next spike of ``i`` at ``t`` or later; ``R_i[t] = 0`` where none follows or ``i`` rests
after its last one. So ``Σ_j w_ij e_ij`` is the sum of the membranes at which ``i`` fired, about
``θ o_i`` for ``o_i`` spikes, and no pair of neurons is ever walked through by itself: ``R`` and
``p`` are two scans, the rest is products of matrices.

Sources: Jin, Zhang & Li 2018 (HM2-BP), the spike-train level post-synaptic potential; Zhang & Li
2019 (ST-RSBP). The identity above is this project's own, checked against loops over pairs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from spiketune.snn.filters import low_pass

# Least size of a factor that a gradient is divided by; its sign is kept.
SMALLEST = 1e-4


def pre_trace(spikes: Tensor, tau: float, *, delayed: bool = True) -> Tensor:
    """Return ``p[t] = r p[t-1] + s[t-1]``, ``r = 1 - 1/τ``, of ``spikes [T, ...]``.

    Args:
        spikes: ``s``.
        tau: ``τ_s``, in steps.
        delayed: ``s[t-1]`` as here, or ``s[t]``.

    Example:
        >>> pre_trace(torch.tensor([1.0, 0.0, 0.0, 1.0]), 2.0).tolist()
        [0.0, 1.0, 0.5, 0.25]
    """
    return tau * low_pass(spikes, tau, torch.zeros_like(spikes[0]), delayed=delayed)[0]


def reach(spikes: Tensor, leak: Tensor | float, period: int) -> Tensor:
    """Return ``R [T, ...]``: what is left of a current at the next spike of the neuron itself.

    Args:
        spikes: ``[T, ...]``, zero where there is none.
        leak: ``λ``, broadcastable to a step.
        period: steps of rest after a spike.

    Example:
        >>> reach(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0]), 0.5, period=1).tolist()
        [0.5, 1.0, 0.0, 0.5, 1.0, 0.0]
    """
    ones, zeros = torch.ones_like(spikes[0]), torch.zeros_like(spikes[0])
    return credit_over_time(spikes, ones, zeros, leak, period=period)


def credit_over_time(
    spikes: Tensor, credit: Tensor, silent: Tensor, leak: Tensor | float, *, period: int
) -> Tensor:
    """Return ``credit R[t] + silent``, the gradient at the current of each step.

    Plain loops, nothing in place, no branch on a value: ready to be traced.

    Args:
        spikes: ``[T, ...]``, zero where there is none.
        credit: of neurons that fired, ``[...]``.
        silent: added at every step, ``[...]``; meant for neurons that never fired.
        leak: ``λ``, broadcastable to a step.
        period: steps of rest after a spike.

    Example:
        >>> spikes, one = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.ones(2)
        >>> credit_over_time(spikes, 2 * one, torch.tensor([0.0, 0.1]), 0.5, period=0)
        tensor([[1.0000, 0.1000],
                [2.0000, 0.1000]])
    """
    fired = [step != 0 for step in spikes.unbind(0)]
    nothing, later = torch.zeros_like(credit), torch.zeros_like(credit)
    found = []
    for t in reversed(range(len(fired))):
        later = torch.where(fired[t], credit, leak * later)
        now = later
        for rest in range(1, min(period, t) + 1):
            now = torch.where(fired[t - rest], nothing, now)
        found.append(now + silent)
    return torch.stack(found[::-1])


def efficacies(reached: Tensor, trace: Tensor) -> Tensor:
    """Return ``e [B, N, M] = Σ_t R[t, b, i] a[t, b, j]`` of all pairs, by one product a sample.

    Args:
        reached: ``R [T, B, N]``.
        trace: ``a = p/τ_s [T, B, M]``.

    Example:
        >>> efficacies(torch.ones(3, 1, 2), torch.ones(3, 1, 4)).unique().tolist()
        [3.0]
    """
    return reached.permute(1, 2, 0) @ trace.transpose(0, 1)


def efficacies_by_spikes(spikes: Tensor, trace: Tensor, leak: float, period: int) -> Tensor:
    """Return what ``efficacies`` does with about ``4 o_i`` operations a pair instead of ``2 T``.

    With ``m_j[t] = λ m_j[t-1] + a_j[t]``, as if nothing were ever reset, a spike at ``t_f`` after
    one that the neuron rested from until ``t_0`` contributes ``m_j[t_f] - λ^(t_f - t_0) m_j[t_0]``.
    Fewer operations, but gathered ones: for long runs with few spikes.

    Args:
        spikes: of the neurons that receive, ``[T, B, N]``.
        trace: ``a = p/τ_s [T, B, M]``.
        leak: ``λ``.
        period: steps of rest after a spike.

    Example:
        >>> spikes, trace = torch.zeros(5, 1, 1), torch.ones(5, 1, 2)
        >>> spikes[3] = 1
        >>> efficacies_by_spikes(spikes, trace, 0.5, 2).flatten().tolist()
        [1.875, 1.875]
    """
    steps, batch, size = spikes.shape
    membrane = [torch.zeros_like(trace[0])]
    for arriving in trace.unbind(0):
        membrane.append(leak * membrane[-1] + arriving)
    # One row a sample and step, step 0 being before the first.
    rows = torch.stack(membrane).transpose(0, 1).flatten(0, 1)
    bag, time = spikes.permute(1, 2, 0).flatten(0, 1).nonzero(as_tuple=True)
    first = torch.ones_like(bag, dtype=torch.bool)
    first[1:] = bag[1:] != bag[:-1]
    rested = torch.where(first, 0, time.roll(1) + period + 1)
    sample = bag.div(size, rounding_mode="floor") * (steps + 1)
    index = torch.stack([sample + time + 1, sample + rested.clamp(max=steps)], dim=1).flatten()
    counts = (rested <= time).to(trace.dtype)  # not in a train that breaks the rest
    left = counts * leak ** (time + 1 - rested).to(trace.dtype)
    weight = torch.stack([counts, -left], dim=1).flatten()
    starts = torch.searchsorted(bag, torch.arange(batch * size, device=bag.device)) * 2
    summed = torch.nn.functional.embedding_bag(
        index, rows, starts, mode="sum", per_sample_weights=weight
    )
    return summed.view(batch, size, -1)


def expected_reach(steps: int, leak: float, period: int) -> tuple[Tensor, Tensor]:
    """Return ``φ(o)``, the mean of ``R`` over the steps for ``o`` spikes at random, and ``φ'(o)``.

    Trains that know nothing of each other have ``e_ij = o_j φ(o_i)`` in the mean. A window of ``m``
    steps holds none of ``o`` spikes with probability ``G(m) = C(T-m, o)/C(T, o)``, so that
    ``φ = 1/T Σ_t Σ_k λ^k (G(k + w) - G(k + w + 1))``, ``w = min(t, P)`` and ``t + k < T``.

    Args:
        steps: ``T``.
        leak: ``λ``.
        period: ``P``, steps of rest after a spike.

    Returns:
        ``φ`` and ``φ'``, ``[T + 1]`` each, for 0 to ``T`` spikes, in double precision.

    Source: in the place of the fourth-order fits to simulated trains of Zhang & Li 2019 (ST-RSBP);
    reconstructed, and compared with such simulations.

    Example:
        >>> mean, slope = expected_reach(400, 63 / 64, 2)
        >>> mean[[1, 10, 40]]
        tensor([0.1348, 0.5703, 0.6994], dtype=torch.float64)
    """
    count = torch.arange(steps + 1, dtype=torch.float64).requires_grad_()
    window = torch.arange(steps + 2, dtype=torch.float64)
    with torch.enable_grad():
        free = steps - window - count[:, None]
        chance = (
            torch.lgamma(steps - window.clamp(max=steps) + 1)
            + torch.lgamma(steps - count + 1)[:, None]
            - torch.lgamma(free.clamp_min(0) + 1)
            - torch.lgamma(torch.tensor(steps + 1.0, dtype=torch.float64))
        ).exp()
        ends = -torch.where(free >= 0, chance, 0.0).diff(dim=1)  # [T + 1, T + 1]
        fades = leak ** torch.arange(steps, dtype=torch.float64)
        weights = torch.zeros(steps + 1, dtype=torch.float64)
        for t in range(min(period, steps)):
            weights[t:steps] += fades[: steps - t]
        rest = max(0, steps - period)
        weights[period : period + rest] += fades[:rest] * torch.arange(rest, 0, -1)
        mean = ends @ weights / steps
        (slope,) = torch.autograd.grad(mean.sum(), count)
    return mean.detach(), slope


@lru_cache
def relative_slopes(steps: int, leak: float, period: int) -> Tensor:
    """Return ``φ'(o)/φ(o)`` of ``expected_reach`` for 0 to ``T`` spikes, ``[T + 1]``; 0 for none.

    Example:
        >>> relative_slopes(400, 63 / 64, 2)[[0, 10]]
        tensor([0.0000, 0.0347])
    """
    mean, slope = expected_reach(steps, leak, period)
    found = slope / mean
    found[0] = 0.0
    found[-1] = found[-2]  # where a train is full, a window that holds none is gone
    return found.float()


def self_factor(potential: Tensor, slope: Tensor) -> Tensor:
    """Return ``Ω = 1 - a φ'/φ``: how a neuron's own spikes change what it takes to send one more.

    More spikes wipe the membrane out more often, and leave less time for it to leak. Kept away from
    zero by ``SMALLEST``, with its sign; 1 where there are no spikes.

    Args:
        potential: ``a = Σ_j w_ij e_ij``, in thresholds; about the count.
        slope: ``φ'/φ``.

    Source: Zhang & Li 2019 (ST-RSBP), ``Ω_i = 1 - 1/θ Σ_j w_ij ∂e_ij/∂o_i``.

    Example:
        >>> self_factor(torch.tensor([10.0, 5.0]), torch.tensor([0.0334, 0.2]))
        tensor([6.6600e-01, 1.0000e-04])
    """
    found = 1 - potential * slope
    return torch.where(found.abs() < SMALLEST, torch.where(found < 0, -SMALLEST, SMALLEST), found)


def solve_recurrent(credit: Tensor, factor: Tensor, gain: Tensor) -> Tensor:
    """Return the credit ``y`` that counts what neurons of a layer do to each other: ``Aᵀ y = δ``.

    ``A_ii = Ω_i``, ``A_il = -w_il e_il/(θ o_l)``: one linear system a sample, no step unrolled. A
    sample whose system has no useful solution is answered as if the layer heard nothing of itself.

    Args:
        credit: ``δ [B, N]``, from the layers behind.
        factor: ``Ω [B, N]``.
        gain: ``w_il e_il/(θ o_l) [B, N, N]``, row ``i`` receives; its diagonal is 0.

    Source: Zhang & Li 2019 (ST-RSBP), ``δ_pre = δ/θ A⁻¹ B``. Their program hands rows for columns
    to its solver, which gives ``B A⁻¹``; this is the equation.

    Example:
        >>> gain = torch.tensor([[[0.0, 0.5], [0.0, 0.0]]])
        >>> solve_recurrent(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2), gain)
        tensor([[1.0000, 0.5000]])
    """
    system = torch.diag_embed(factor) - gain
    found = torch.linalg.solve_ex(system.mT, credit.unsqueeze(-1))[0].squeeze(-1)
    bound = credit.abs().amax(-1, keepdim=True) / SMALLEST
    useful = (found.abs() <= bound).all(-1, keepdim=True)  # False where it is not a number
    return torch.where(useful, found, credit / factor)
