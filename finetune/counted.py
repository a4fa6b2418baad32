"""Neurons that answer for their counts: gradients of layers by HM2-BP and ST-RSBP.

A neuron gets the gradient ``g[t]`` at each of its spikes, by ordinary backpropagation through the
weights and synapses behind it. Where those layers sent back ``δ_i R_i[t]`` as in ``spike_trains``,
its mean over the spikes, ``δ_j = Σ_t s_j[t] g_j[t] / o_j``, is the papers' ``Σ_i δ_i w_ij e_ij /
o_j``; and the weights get ``δ_i e_ij``, for both are sums over the same products. So a rule changes
neurons only: convolutions, pooling and whatever else lies between need not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketune.snn import LIF, Neuron, Recurrent, Refractory, State
from spiketune.snn.filters import low_pass
from spiketune.snn.fused.paths import run_eagerly, run_neuron, run_pointwise

from .spike_trains import (
    credit_over_time,
    efficacies,
    reach,
    relative_slopes,
    self_factor,
    solve_recurrent,
)

# Up to so many steps the scan over time is unrolled into one kernel.
UNROLLED = 64


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How a layer's gradient comes from its counts.

    Attributes:
        silent: credit of a neuron that never fired: none, or the mean of ``g`` over all steps.
        revive: ``R`` of a neuron that never fired; without credit it does nothing.
        saturated: credit of a neuron that fired ``T/(P + 1)`` times, as often as its rest lets it,
            so that more current changes nothing: none, or as all others.
        factor: whether credit is divided by ``Ω``, and ``Σ_j w_ij e_ij`` taken for ``θ o_i``
            (``"counts"``) or summed up from the currents.
        whole: whether recurrent weights are answered for by the whole layer, or each neuron by
            itself.
        lateral: strength of the inhibition between outputs, in thresholds, and ``τ_s`` before them;
            None leaves it out.

    Example:
        >>> Counting().factor is None
        True
    """

    silent: Literal["zero", "mean"] = "zero"
    revive: float = 0.05
    saturated: Literal["zero", "full"] = "zero"
    factor: Literal["counts", "currents"] | None = None
    whole: bool = True
    lateral: tuple[float, float] | None = None


def counted(how: Counting, neuron: Neuron, current: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a neuron with the gradient of its count.

    Args:
        how: settings.
        neuron: LIF, Refractory or Recurrent, with a hard reset to 0.
        current: ``[T, B, ...]``.
        state: before the first step.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.

    Example:
        >>> neuron = Refractory(torch.tensor(1.0), leak=0.5, period=1)
        >>> current = torch.full((4, 1), 0.8).requires_grad_()
        >>> spikes, _ = counted(Counting(), neuron, current, neuron.start(current))
        >>> spikes.backward(torch.tensor([[0.0], [2.0], [0.0], [0.0]]))
        >>> spikes.flatten().tolist(), current.grad.flatten().tolist()
        ([0.0, 1.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0])
    """
    ends: list[State] = []
    if isinstance(neuron, Recurrent):
        sent = _Recurrent.apply(current, neuron.weights(), neuron, state, how, ends)
    else:
        sent = _Counted.apply(current, neuron, state, how, ends)
    return sent, ends[0]


class _Counted(torch.autograd.Function):
    """The neuron's own steps forward; the credit of its count backward."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, neuron: Neuron, state: State, how: Counting, ends: list[State]
    ) -> Tensor:
        sent, end = run_neuron(neuron, current, state)
        ends.append(end)
        ctx.neuron, ctx.how = neuron, how
        ctx.save_for_backward(sent, *([current] if how.factor == "currents" else []))
        return sent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sent, *current = ctx.saved_tensors
        how, neuron = ctx.how, ctx.neuron
        answers, count, credit = credit_of(sent, grad, neuron, how)
        if how.factor is not None:
            credit = credit / factor_of(sent, count, neuron, *current)
        if how.lateral is not None:
            credit = credit * _lateral(sent, count, credit, neuron, how.lateral)
        silent = _revived(credit, answers, how)
        found = _scan(sent, torch.where(answers, credit, 0.0), silent, neuron)
        return found, None, None, None, None


class _Recurrent(torch.autograd.Function):
    """The same for a layer that hears itself: one linear system a sample between the two."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        weights: Tensor,
        neuron: Recurrent,
        state: State,
        how: Counting,
        ends: list[State],
    ) -> Tensor:
        sent, end = run_eagerly(neuron, current, state)
        ends.append(end)
        level = state.extra[0] / neuron.tau
        ctx.neuron, ctx.how = neuron, how
        ctx.save_for_backward(
            sent, weights, level, *([current] if how.factor == "currents" else [])
        )
        return sent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sent, weights, level, *current = ctx.saved_tensors
        how, neuron = ctx.how, ctx.neuron
        answers, count, credit = credit_of(sent, grad, neuron, how)
        trace, _ = low_pass(sent, neuron.tau, level, delayed=True)
        factor = torch.ones_like(credit)
        if how.factor is not None:
            full = [trace @ weights.T + part for part in current]
            factor = factor_of(sent, count, neuron, *full)
        # Credit of neurons that never fired is no unknown: nobody hears them.
        per_spike = (neuron.threshold * count.clamp_min(1)).expand_as(credit)
        silent = _revived(credit / factor, answers, how)
        heard = torch.where(answers, credit + (silent @ weights) * trace.sum(0) / per_spike, 0.0)
        reached = reach(sent, neuron.leak, neuron.period)
        whole = _solve_answering(heard, factor, answers, reached, trace, weights, per_spike)
        found = whole * reached + silent
        own = found if how.whole else torch.where(answers, credit / factor, 0.0) * reached + silent
        of_weights = own.flatten(0, 1).T @ trace.flatten(0, 1)
        return found, of_weights, None, None, None, None


def _solve_answering(
    credit: Tensor,
    factor: Tensor,
    answers: Tensor,
    reached: Tensor,
    trace: Tensor,
    weights: Tensor,
    per_spike: Tensor,
) -> Tensor:
    """Return ``solve_recurrent`` of the neurons that answer, often few, and 0 for the others."""
    size = max(1, int(answers.sum(1).max()))
    kept = answers.to(torch.int8).topk(size, dim=1, sorted=False).indices  # [B, size]
    at, steps = partial(torch.gather, dim=1, index=kept), kept.expand(len(reached), -1, -1)
    # A sample with fewer is filled up with others, whom nobody is to hear.
    heard = trace.gather(2, steps) * at(answers)
    pairs = efficacies(reached.gather(2, steps), heard)
    between = weights.take(kept.unsqueeze(2) * len(weights) + kept.unsqueeze(1))
    gain = between * pairs / at(per_spike).unsqueeze(1)
    solved = solve_recurrent(at(credit), at(factor), gain)
    return torch.zeros_like(credit).scatter_(1, kept, solved)


def credit_of(
    sent: Tensor, grad: Tensor, neuron: Neuron, how: Counting
) -> tuple[Tensor, Tensor, Tensor]:
    """Return who answers for spikes, how often it fired, and ``δ`` of its count, ``[B, ...]`` each.

    Args:
        sent: spikes times threshold ``[T, B, ...]``.
        grad: ``g``, the gradient there.
        neuron: those neurons.
        how: settings.

    Example:
        >>> sent = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        >>> grad = torch.tensor([[2.0, 3.0], [9.0, 3.0], [1.0, 3.0]])
        >>> neuron = Refractory(torch.tensor(1.0), period=0)
        >>> credit_of(sent, grad, neuron, Counting(silent="mean"))[2]
        tensor([1.5000, 3.0000])
    """
    total, met = torch.zeros_like(sent[0]), torch.zeros_like(sent[0])
    for spikes, error in zip(sent, grad, strict=True):  # both sums while a step is at hand
        total += spikes
        met.addcmul_(spikes, error)
    fired = total > 0
    credit = met / torch.where(fired, total, 1.0)
    if how.silent == "mean":
        credit = torch.where(fired, credit, grad.mean(0))
    count = (total / neuron.threshold).round()
    if how.saturated == "zero":
        room = count * (own_time(neuron)[1] + 1) < len(sent)
        return fired & room, count, torch.where(room, credit, 0.0)
    return fired, count, credit


def factor_of(sent: Tensor, count: Tensor, neuron: Neuron, current: Tensor | None = None) -> Tensor:
    """Return ``Ω`` of ``self_factor``, from the counts alone or from the currents too."""
    leak, period = own_time(neuron)
    slopes = relative_slopes(len(sent), float(leak), period).to(sent)
    slope = slopes[count.long()]
    if current is None:
        return self_factor(count, slope)
    potential = torch.zeros_like(count)
    for left, arriving in zip(reach(sent, leak, period), current, strict=True):
        potential.addcmul_(left, arriving)
    return self_factor(potential / neuron.threshold, slope)


def own_time(neuron: Neuron) -> tuple[Tensor, int]:
    """Return a neuron's leak and its steps of rest.

    Example:
        >>> own_time(LIF(torch.tensor(1.0), leak=0.5))[1]
        0
    """
    assert isinstance(neuron, LIF | Refractory)
    return neuron.leak, neuron.period if isinstance(neuron, Refractory) else 0


def _revived(credit: Tensor, fired: Tensor, how: Counting) -> Tensor:
    """Return what goes to every step of neurons that never fired."""
    return torch.where(fired, 0.0, how.revive * credit)


def _scan(sent: Tensor, credit: Tensor, silent: Tensor, neuron: Neuron) -> Tensor:
    """Return ``credit_over_time``, by a kernel where that unrolls."""
    leak, period = own_time(neuron)
    scan = partial(credit_over_time, period=period)
    if len(sent) > UNROLLED:
        return scan(sent, credit, silent, leak)
    setting = leak.expand(sent.shape[2:]) if leak.dim() else leak
    return run_pointwise(scan, (credit_over_time, period), [sent], [credit, silent], [setting])


def _lateral(
    sent: Tensor, count: Tensor, credit: Tensor, neuron: Neuron, lateral: tuple[float, float]
) -> Tensor:
    """Return what inhibition between outputs ``[B, K]`` does to their credit.

    ``1/(1 - w² Σ_{l≠j} (e_jl/o_l) (e_lj/o_j))`` for outputs that fired or that are to fire more;
    at most 10, for strong inhibition among many would turn its sign.
    """
    strength, tau = lateral
    leak, period = own_time(neuron)
    spikes = (sent != 0).to(sent)
    trace, _ = low_pass(spikes, tau, torch.zeros_like(spikes[0]), delayed=True)
    ratio = efficacies(reach(spikes, leak, period), trace) / count.clamp_min(1).unsqueeze(1)
    both = ratio * ratio.mT
    around = strength**2 * (both.sum(2) - both.diagonal(dim1=1, dim2=2))
    concerned = (count > 0) | (credit < 0)
    return torch.where(concerned, 1 / (1 - around).clamp_min(0.1), 1.0)
