"""Backpropagation through time with a surrogate slope in place of the spike's derivative.

With current ``c``, membrane ``u``, spike ``s``, threshold ``θ`` and slope ``h``, the gradient
``δ[t] = ∂L/∂c[t]`` follows from the gradient ``g[t] = ∂L/∂s[t]`` at the neuron's output by

    ``δ[t] = h(u[t]) g[t] + J[t] δ[t+1]``

with ``J[t] = λ`` for a soft and ``λ (1 - s[t])`` for a hard reset while the reset is detached;
the full form subtracts ``λ θ h(u[t])`` and ``λ u[t] h(u[t])`` (Yang 2020, the temporal term).

Sources: Wu et al. 2018 (STBP); Neftci et al. 2019; Yang 2020 (arXiv 2011.09964); trained
thresholds after Rathi & Roy 2020 (DIET-SNN).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from spiketune.snn import Sigmoid, SpikingNetwork, Surrogate

from .rules import Batch, Learn, Outcome, Rule, Task, outputs, register_rule


@dataclass(frozen=True, kw_only=True)
class SurrogateBPTT(Rule):
    """Train through all steps with a surrogate slope; memory grows with ``T``.

    The rule writes ``surrogate`` and ``detach_reset`` into every neuron's ``firing`` and leaves
    them there: they shape gradients only, never an answer.

    Attributes:
        surrogate: slope that stands for the spike's derivative.
        detach_reset: leave the reset out of the gradient.
        train_thresholds: train the thresholds along with the weights.

    Example:
        >>> SurrogateBPTT(train_thresholds=False).surrogate
        Sigmoid(alpha=4.0)
    """

    surrogate: Surrogate = field(default_factory=Sigmoid)
    detach_reset: bool = True
    train_thresholds: bool = True


@register_rule(SurrogateBPTT)
def surrogate_bptt(snn: SpikingNetwork, rule: SurrogateBPTT, task: Task) -> Learn:
    """Set the slope of every neuron and return the step that learns from one batch."""
    for _, neuron in snn.neurons():
        neuron.firing = replace(
            neuron.firing, surrogate=rule.surrogate, detach_reset=rule.detach_reset
        )
        neuron.threshold.requires_grad_(rule.train_thresholds)

    def learn(batch: Batch) -> Outcome:
        sent = outputs(snn, batch.images, task.steps)
        loss = task.criterion(sent, batch)
        task.backward(loss)
        return Outcome(loss.detach(), snn.read(sent.detach()))

    return learn
