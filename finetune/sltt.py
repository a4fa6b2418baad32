"""SLTT, spatial learning through time: backward through the layers of each step, not through time.

With current ``c``, membrane ``u[t] = λ m[t-1] + c[t]``, membrane after the reset ``m``, spike
``s``, slope ``h``, and ``g[t] = ∂L[t]/∂s[t]`` from the loss of the same step alone:

    ``δ[t] = h[t] g[t]``,   ``∇W = 1/T Σ_t δ[t] s_pre[t]ᵀ``

This is backpropagation through time with ``m[t-1]`` a constant; for ``T = 1`` they are the same.

Source: Meng, Xiao, Yan, Wang, Lin & Luo 2023, "Towards memory- and time-efficient backpropagation
for training spiking neural networks" (SLTT and SLTT-K). Differences here: thresholds train too,
unless that is switched off; and slopes are relative to the threshold. A BatchNorm sees
one step at a time, as in the source: its statistics are those of ``B`` images, not of ``T·B`` as
under SurrogateBPTT, and its running ones move ``T`` times a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from spiketune.snn import Sigmoid, SpikingNetwork, Surrogate

from .errors import TuneError
from .online import Online, by_steps, require_steps
from .rules import Learn, Rule, Task, register_rule
from .surrogate_bptt import set_slopes


@dataclass(frozen=True, kw_only=True)
class SLTT(Rule):
    """Train every step by itself; memory does not grow with ``T``.

    Any neuron that runs step by step will do, functions of sums too; all that they carry from
    step to step is a constant. The network must be read at every step: no drive, no delay.

    Attributes:
        surrogate: slope that stands for the spike's derivative; None leaves each neuron's own, as
            ``calibrate_gain`` sets it.
        k: ``K``, backward passes a batch, through steps drawn anew for each batch, each set of
            ``K`` as likely as any other (SLTT-K); None for all ``T``. The mean over the draws is
            ``K/T`` of SLTT's gradient, since each loss counts ``1/T`` as before: SGD needs a rate
            ``T/K`` times as high for the same pace.
        train_thresholds: train the thresholds along with the weights.

    Raises:
        TuneError: on a ``k`` below 1.

    Example:
        >>> SLTT(k=2).surrogate
        Sigmoid(alpha=4.0)
    """

    surrogate: Surrogate | None = field(default_factory=Sigmoid)
    k: int | None = None
    train_thresholds: bool = True

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise TuneError(f"k must be at least 1 step, or None for all, not {self.k}")


@register_rule(SLTT)
def sltt(snn: SpikingNetwork, rule: SLTT, task: Task) -> Learn:
    """Set the slope of every neuron and return the step that learns from one batch.

    Raises:
        TuneError: on a network that cannot learn step by step, or a ``k`` above ``T``.
    """
    require_steps(snn, "SLTT")
    count = task.steps if rule.k is None else rule.k
    if count > task.steps:
        raise TuneError(f"k={count} steps cannot be drawn out of {task.steps}; lower k")
    set_slopes(snn, rule.surrogate, detach_reset=True, train_thresholds=rule.train_thresholds)

    def draw() -> set[int]:
        if count == task.steps:
            return set(range(count))
        return set(torch.randperm(task.steps, generator=task.common)[:count].tolist())

    return by_steps(snn, task, Online(snn), draw)
