"""Neurons at rest: what they send, filtered, as a smooth function of what they receive.

A leaky neuron with a soft reset adds up ``V_i(T) = Σ_t λ^(T-1-t) (c_i[t] - θ_i s_i[t] - κ θ_i
Σ_{h≠i} s_h[t])``. The membrane stays within about a threshold, while both sums grow: with traces
``x̄ = Σ_t λ^(T-1-t) x[t] / Σ_t λ^t`` of the current (``z``) and of the spikes (``a``), and the spike
as noise,

    ``z_i/θ_i = a_i + κ Σ_{h≠i} a_h``      for the ``m`` neurons of a group that fired at all

so ``a = M⁻¹ z/θ`` with ``M = (1 - κ) I + κ 1 1ᵀ`` on these. The gradient ``g_i`` at ``a_i`` becomes

    ``μ = M⁻¹ g = (g - κ Σ_h g_h/(1 - κ + κ m))/(1 - κ)``
    ``∂L/∂z_i = μ_i/θ_i``
    ``∂L/∂θ_i = -μ_i (a_i + κ Σ_{h≠i} a_h)/θ_i``
    ``∂L/∂κ = -Σ_i μ_i Σ_{h≠i} a_h``

and zero for neurons that were silent. Where ``θ s`` is sent, ``g_i`` is ``θ_i`` times the gradient
there, and ``∂L/∂θ_i`` has that gradient times ``a_i`` more: without inhibition nothing is left of
it, for a neuron with a larger threshold fires as much more rarely as its spikes are larger.

Source: Lee, Delbruck & Pfeiffer 2016, the approximate derivatives; the inverse on active neurons is
that of a matrix of rank one beside the unit matrix (Sherman & Morrison).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketune.snn import Lateral, Neuron

Sum = Callable[[Tensor], Tensor]


class Gradients(NamedTuple):
    """Gradients of one layer, image by image, ``[B, ...]``.

    Attributes:
        current: at ``z``.
        threshold: at ``θ``.
        inhibition: at ``κ``.

    Example:
        >>> Gradients(*torch.ones(3, 1)).current.item()
        1.0
    """

    current: Tensor
    threshold: Tensor
    inhibition: Tensor


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How Lee et al. scale gradients by layer size and activity; reconstructed from memory.

    ``δ_i = (g_i/g_rms) √(M'/m') Σ_j w_ji δ_j``; ``Δw ~ √(N/m) δ``; ``Δθ ~ √(N/(m M)) δ``, with
    ``g_i = 1/θ_i``, or 1 where ``θ s`` is sent, ``M`` neurons of which ``m`` fired, ``N`` inputs of
    each, primes for the next layer. What a layer sends back here has its ``√(N/m)`` in it already.

    Attributes:
        inputs: ``N``.
        neurons: ``M``.
        behind: ``√(M'/N')``, 1 for the last layer.

    Example:
        >>> Scale(inputs=784, neurons=800, behind=1.0).neurons
        800
    """

    inputs: int
    neurons: int
    behind: float

    def __call__(self, found: Gradients, fired: Tensor, slopes: Tensor) -> Gradients:
        """Scale the gradients of neurons that ``fired [B, ...]``, whose ``g`` is ``slopes``."""
        active = fired.flatten(1).sum(1).clamp_min(1).view(-1, *[1] * (fired.dim() - 1))
        mean_square = slopes.expand(fired.shape[1:]).square().mean()
        factor = (self.inputs / active / mean_square).sqrt()
        return Gradients(
            found.current * factor,
            found.threshold * factor / self.neurons**0.5,
            found.inhibition * factor,
        )


def at_rest(
    grad: Tensor,
    trace: Tensor,
    threshold: Tensor,
    inhibition: Tensor | None = None,
    in_group: Sum | None = None,
    *,
    wake: bool = False,
) -> Gradients:
    """Return the gradients of one layer, given that at its traces.

    Args:
        grad: ``g`` at ``a``, ``[B, ...]``.
        trace: ``a``, of bare spikes.
        threshold: ``θ``, broadcastable to a sample.
        inhibition: ``κ`` below 1, None for 0.
        in_group: sums over a group, as ``Lateral.in_group``.
        wake: take silent neurons for ones that fired.

    Example:
        >>> one = torch.tensor(1.0)
        >>> at_rest(torch.tensor([[0.5, 2.0]]), torch.tensor([[0.25, 0.0]]), 2 * one).current
        tensor([[0.2500, 0.0000]])
    """
    fired = trace > 0 if not wake else torch.ones_like(trace, dtype=torch.bool)
    heard = torch.where(fired, grad, 0.0)
    if inhibition is None or in_group is None:
        none = torch.zeros_like(trace)
        return Gradients(heard / threshold, -heard * trace / threshold, none)
    active = in_group(fired.to(trace.dtype))
    shared = inhibition * in_group(heard) / (1 - inhibition + inhibition * active)
    mu = torch.where(fired, (heard - shared) / (1 - inhibition), 0.0)
    others = in_group(trace) - trace
    net = trace + inhibition * others
    return Gradients(mu / threshold, -mu * net / threshold, -mu * others)


def rested(
    neuron: Neuron,
    current: Tensor,
    sent: Tensor,
    scale: Scale | None = None,
    *,
    wake: bool = False,
) -> Tensor:
    """Return the trace of what a neuron sent, with this module's gradients.

    Args:
        neuron: IF, LIF or Lateral.
        current: ``z [B, ...]``, that gradients go to.
        sent: measured trace of its output ``θ s``, or ``s`` where spikes are bare.
        scale: as Lee et al. scale; None leaves gradients as they are.
        wake: take silent neurons for ones that fired.

    Example:
        >>> from spiketune.snn import LIF
        >>> current = torch.tensor([[0.5, -0.5]], requires_grad=True)
        >>> trace = rested(LIF(torch.tensor(1.0), leak=0.9), current, torch.tensor([[0.4, 0.0]]))
        >>> trace.sum().backward()
        >>> current.grad
        tensor([[1., 0.]])
    """
    inhibition = neuron.inhibition if isinstance(neuron, Lateral) else None
    how = _How(neuron, scale, wake)
    found: Tensor = _Rested.apply(current, neuron.threshold, inhibition, sent, how)
    return found


class _How(NamedTuple):
    """What the gradient of a layer needs to know beside tensors."""

    neuron: Neuron
    scale: Scale | None
    wake: bool


class _Rested(torch.autograd.Function):
    """The measured trace forward, ``at_rest`` backward."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        threshold: Tensor,
        inhibition: Tensor | None,
        sent: Tensor,
        how: _How,
    ) -> Tensor:
        ctx.save_for_backward(threshold, inhibition, sent)
        ctx.how, ctx.dtype = how, current.dtype
        return sent.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        threshold, inhibition, sent = ctx.saved_tensors
        neuron, scale, wake = ctx.how
        bare = neuron.bare
        grad = grads[0] if scale is None else grads[0] * scale.behind
        trace, at_trace = (sent, grad) if bare else (sent / threshold, grad * threshold)
        in_group = None if inhibition is None else neuron.in_group
        found = at_rest(at_trace, trace, threshold, inhibition, in_group, wake=wake)
        if not bare:
            found = found._replace(threshold=found.threshold + grad * trace)
        if scale is not None:
            found = scale(found, trace > 0, 1 / threshold if bare else torch.ones_like(threshold))
        return (
            found.current.to(ctx.dtype),
            found.threshold.sum_to_size(threshold.shape),
            None if inhibition is None else found.inhibition.sum(),
            None,
            None,
        )
