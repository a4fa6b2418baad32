"""Backpropagation through time with a surrogate slope in place of the spike's derivative.

With current ``c``, membrane ``u[t] = λ m[t-1] + c[t]``, spike ``s[t] = 1[u[t] >= θ]``, membrane
after the reset ``m[t]`` and slope ``h[t] = h(u[t]/θ - 1)``, so that ``∂s/∂u := h/θ``, a binary
neuron turns the gradient ``g[t]`` at its output ``θ s[t]`` into

    ``δ[t] = ∂L/∂c[t] = h[t] g[t] + J[t] δ[t+1]``

with ``J = λ r``, ``r = 1`` for a soft reset and ``1 - s[t]`` for a hard one to ``v_r``, while the
reset is detached; the full form subtracts ``λ h[t]`` or ``λ h[t] (u[t] - v_r)/θ`` from ``J`` (Yang
2020, the temporal term). A threshold gets, over all that share it,

    ``∂L/∂θ = φ λ δ[1] + Σ_t s[t] g[t] - k s[t] λ δ[t+1] - (u[t]/θ) (δ[t] - r[t] λ δ[t+1])``

with ``k = 1`` for a soft reset, which takes ``θ`` away, and 0 for a hard one; ``m[0] = φ θ``.

Sources: Wu et al. 2018 (STBP); Neftci et al. 2019; Yang 2020 (arXiv 2011.09964); trained
thresholds after Rathi & Roy 2020 (DIET-SNN). Where this differs from them: slopes are relative to
the threshold and spikes leave as ``θ s``, so that both hold for any scale of the network; Yang's
synapses, which filter the spikes, are gone; his slope has the width 0.2, which is ``Sigmoid(
alpha=5)``, where the default here is 4; and a neuron fires at the threshold already, where his has
to exceed it (``Firing(strict=True)``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spiketune.snn import Sigmoid, SpikingNetwork, Surrogate

from .errors import TuneError
from .packing import Packing, packed, unrolled
from .recompute import Recomputed
from .rules import Learn, Rule, Task, Unroll, register_rule, through_time


@dataclass(frozen=True, kw_only=True)
class SurrogateBPTT(Rule):
    """Train through all steps with a surrogate slope; memory grows with ``T``.

    The rule writes ``surrogate`` and ``detach_reset`` into every neuron's ``firing`` and leaves
    them there: they shape gradients only, never an answer. Activations are kept for the way back,
    unless some are to be computed again (see ``recompute``): the gradient is the same, it takes
    longer and needs less memory.

    Attributes:
        surrogate: slope that stands for the spike's derivative; None leaves each neuron's own, as
            ``calibrate_gain`` sets it.
        detach_reset: leave the reset out of the gradient.
        train_thresholds: train the thresholds along with the weights.
        recompute_blocks: divide the graph into so many blocks and keep what passes between them;
            the square root of the number of neurons is a good start.
        recompute_steps: divide the steps into stretches of so many and keep the states between
            them; ``√T`` is a good start. Not with BatchNorms that train, which see all steps.
        pack_spikes: keep the spikes of binary and ternary neurons as bytes, a quarter of what
            floats take; answers and gradients stay the same to the bit. Not under bfloat16.

    Raises:
        TuneError: on fewer than 2 blocks, or stretches of less than one step.

    Example:
        >>> SurrogateBPTT(recompute_blocks=4).surrogate
        Sigmoid(alpha=4.0)
    """

    surrogate: Surrogate | None = field(default_factory=Sigmoid)
    detach_reset: bool = True
    train_thresholds: bool = True
    recompute_blocks: int | None = None
    recompute_steps: int | None = None
    pack_spikes: bool = False

    def __post_init__(self) -> None:
        for name, least in (("recompute_blocks", 2), ("recompute_steps", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise TuneError(f"{name} must be at least {least}, or None, not {given}")


@register_rule(SurrogateBPTT)
def surrogate_bptt(snn: SpikingNetwork, rule: SurrogateBPTT, task: Task) -> Learn:
    """Set the slope of every neuron and return the step that learns from one batch.

    Raises:
        TuneError: if the network, or its steps, cannot be divided as the rule asks, or spikes are
            to be packed and it has neither binary nor ternary neurons.
    """
    set_slopes(
        snn,
        rule.surrogate,
        detach_reset=rule.detach_reset,
        train_thresholds=rule.train_thresholds,
    )
    return through_time(snn, task, _unroll(snn, rule, task.steps))


def _unroll(snn: SpikingNetwork, rule: SurrogateBPTT, steps: int) -> Unroll:
    """Return what runs all steps, and computes again what the rule says."""
    blocks, stretch = rule.recompute_blocks, rule.recompute_steps
    if stretch is not None and stretch >= steps:
        raise TuneError(
            f"recompute_steps={stretch} would compute all {steps} steps again at once, which saves "
            "nothing; give fewer, or leave it out"
        )
    if blocks is None and stretch is None:
        return unrolled(snn, pack_spikes=rule.pack_spikes)
    packing = Packing(snn) if rule.pack_spikes else None
    program = Recomputed(snn, blocks=blocks, over_time=stretch is not None, packing=packing)

    def unroll(snn: SpikingNetwork, images: Tensor, steps: int) -> Tensor:
        return torch.cat(list(snn.outputs(images, steps, chunk=stretch, program=program)))

    return unroll if packing is None else packed(packing, unroll)


def set_slopes(
    snn: SpikingNetwork, surrogate: Surrogate | None, *, detach_reset: bool, train_thresholds: bool
) -> None:
    """Set the slope of every neuron, and whether resets have a gradient and thresholds train.

    Without a slope each neuron keeps its own.

    Example:
        >>> import spiketune as st
        >>> snn = st.twin(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()), 4, (4,))
        >>> set_slopes(snn, Sigmoid(alpha=2.0), detach_reset=True, train_thresholds=False)
        >>> [neuron.firing.surrogate for _, neuron in snn.neurons()]
        [Sigmoid(alpha=2.0)]
    """
    for _, neuron in snn.neurons():
        slope = surrogate or neuron.firing.surrogate
        neuron.firing = replace(neuron.firing, surrogate=slope, detach_reset=detach_reset)
        neuron.threshold.requires_grad_(train_thresholds)
