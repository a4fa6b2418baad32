"""DIET-SNN: weights, thresholds and leaks train together.

With ``u[t] = λ m[t-1] + c[t]``, spike ``s[t] = 1[u[t] >= θ]``, ``m[t] = u[t] - θ s[t]``, slope
``h[t] = h(u[t]/θ - 1)`` and the gradient ``g[t]`` at the output ``θ s[t]``:

    ``δ[t] = h[t] g[t] + λ δ[t+1]``                                      to the current
    ``∂L/∂λ = Σ δ[t] m[t-1]``                                            to the leak
    ``∂L/∂θ = Σ g[t] (s[t] - h[t] u[t]/θ) - λ δ[t+1] s[t]``              to the threshold

and ``∂L/∂θ`` gets what comes through a first membrane given in thresholds. In the reset the spike
is a constant and the threshold is not.

Source: Rathi & Roy 2020, "DIET-SNN: direct input encoding with leakage and threshold
optimization", section III. Here spikes leave scaled by ``θ``, which gives the term ``g[t] s[t]``,
and thresholds keep the shape that they were balanced in, a layer or a channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from spiketune.snn import LIF, Linear, SoftReset, SpikingNetwork, Surrogate

from .errors import TuneError
from .leaky import make_leaky, require_integrating
from .packing import unrolled
from .rules import Learn, Rule, Task, register_rule, through_time


@dataclass(frozen=True, kw_only=True)
class DIET(Rule):
    """Train thresholds and leaks along with the weights, through all steps.

    IF neurons become LIF neurons whose leak, one number a layer, starts at 1 and trains; thresholds
    are kept above a hundredth of what they were, leaks in (0, 1]. Only IF and LIF neurons with a
    soft reset can be trained.

    Attributes:
        surrogate: slope that stands for the spike's derivative.
        pack_spikes: keep spikes as bytes, a quarter of what floats take; answers and gradients stay
            the same to the bit. Not under bfloat16.

    Example:
        >>> DIET().surrogate
        Linear(height=0.3)
    """

    surrogate: Surrogate = field(default_factory=Linear)
    pack_spikes: bool = False


@register_rule(DIET)
def diet(snn: SpikingNetwork, rule: DIET, task: Task) -> Learn:
    """Give every neuron a leak and the slope, and return the step that learns from one batch."""
    require_integrating(snn, "DIET")
    for name, neuron in snn.neurons():
        if not isinstance(neuron.firing.reset, SoftReset):
            raise TuneError(
                f"{name}: DIET trains neurons with a soft reset; convert with "
                "Binary(reset='soft'), or tune with SurrogateBPTT()"
            )
    make_leaky(snn)
    for _, neuron in snn.neurons():
        assert isinstance(neuron, LIF)
        neuron.firing = replace(neuron.firing, surrogate=rule.surrogate, detach_reset=True)
        neuron.threshold.requires_grad_(True)
        neuron.leak.requires_grad_(True)
    return through_time(snn, task, unrolled(snn, pack_spikes=rule.pack_spikes))
