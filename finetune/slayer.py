"""SLAYER: spike response neurons trained by an escape rate and by credit through their kernels.

With ``u = ε * c + ν * s``, the escape rate ``ρ`` in the place of ``∂s/∂u`` and the gradient ``g``
that arrives at the spikes, a current gets

    ``∂L/∂c[t] = Σ_{k>=t} ε[k-t] ρ(u[k]) g[k]``,  ``ρ(u) = a/(w θ) exp(-|u - θ|/(w θ))``

the adjoint of the kernel. It is not summed: with ``e = ρ(u) g`` and ``r = e^{-1/τ_s}`` two traces
run back from the last step,

    ``B[t] = e[t] + r B[t+1]``, ``A[t] = r (A[t+1] + B[t+1])``, ``∂L/∂c[t] = (e/τ_s) A[t]``

which is what going backward through the neuron's own recursion comes to, step by step or in
kernels. What a spike does to its own neuron later, ``ν``, is left out of the gradient, as the
authors leave it out, or taken along, as EXODUS does. Delays train with the weights: see
``snn.Delay``.

Sources: Shrestha & Orchard 2018, "SLAYER: spike layer error reassignment in time" (NeurIPS), with
the escape rate as their program has it; Bauer et al. 2022 (EXODUS). Differences: kernels are not
cut off where they fall below 0.01; pools, which there are neurons of weight 1.1 θ, may be sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spiketune.snn import SRM, Delay, Laplace, SpikingNetwork

from .alive import watched
from .between import last_neurons
from .errors import TuneError
from .rules import Learn, Rule, Task, register_rule, through_time
from .surrogate_bptt import set_slopes


@dataclass(frozen=True, kw_only=True)
class SLAYER(Rule):
    """Train networks of ``SRM`` neurons, and the delays between them.

    Attributes:
        slope: the escape rate ``ρ``, relative to the threshold.
        refractory: whether the gradient follows the refractory kernel too: exact but for the
            escape rate (EXODUS), where SLAYER takes what it does as given.
        train_delays: whether delays, if there are any, train with the weights.

    Raises:
        TuneError: on another slope, or a switch that is neither on nor off.

    Source: Shrestha & Orchard 2018; refractory after Bauer et al. 2022 (EXODUS).

    Example:
        >>> SLAYER(slope=Laplace(scale=0.5)).refractory
        False
    """

    slope: Laplace = field(default_factory=Laplace)
    refractory: bool = False
    train_delays: bool = True

    remedy = "give SLAYER a wider slope"

    def __post_init__(self) -> None:
        if not isinstance(self.slope, Laplace):
            raise TuneError(
                f"slope must be Laplace(...), not {self.slope!r}; SurrogateBPTT() takes any "
                "surrogate, on SRM neurons too"
            )
        for name in ("refractory", "train_delays"):
            if not isinstance(getattr(self, name), bool):
                raise TuneError(
                    f"SLAYER: {name} must be True or False, not {getattr(self, name)!r}"
                )


@register_rule(SLAYER)
def slayer(snn: SpikingNetwork, rule: SLAYER, task: Task) -> Learn:
    """Set slopes and what trains, and return the step that learns from one batch.

    Raises:
        TuneError: on neurons that are not SRM; in the first batch, naming a hidden layer in which
            none fires.
    """
    for name, neuron in snn.neurons():
        if not isinstance(neuron, SRM):
            raise TuneError(
                f"{name}: SLAYER trains SRM neurons, not {type(neuron).__name__}; build the "
                "network with neuron=SRMNeuron(), or tune with SurrogateBPTT(surrogate=Laplace())"
            )
    for unit in snn.modules():
        if isinstance(unit, Delay):
            unit.delay.requires_grad_(rule.train_delays)
    set_slopes(snn, rule.slope, detach_reset=not rule.refractory, train_thresholds=False)
    hidden = {name for name, _ in snn.neurons()} - last_neurons(snn)
    remedy = "or give SLAYER a wider slope and the network more steps"
    return through_time(snn, task, watched(hidden, remedy, task.begun))
