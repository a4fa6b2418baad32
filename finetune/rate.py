"""Train a network of rate neurons as the ANN of their curves, without running a single step.

Each ``RateLIF`` stands for ``A r(J)``, the soft LIF curve. It is trained as an activation, with
noise that stands for what filtered spikes make of a rate:

    ``a = A (r(J) + η ξ)``,   ``ξ ~ N(0, 1)`` for every activation anew.

Source: Hunsberger & Eliasmith 2015 and 2016 (soft LIF; noise of 10 Hz as remembered).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from spiketune.snn import RateLIF, SpikingNetwork, Temporal
from spiketune.snn.soft_lif import waver

from .errors import TuneError
from .rules import Batch, Learn, Outcome, Rule, Task, register_rule, require_neurons


@dataclass(frozen=True, kw_only=True)
class RateTraining(Rule):
    """Train a network of ``RateLIF`` neurons as an ANN; time and memory do not depend on ``T``.

    The steps that ``tune`` is given are those of its validation, which does simulate spikes. The
    criterion sees the answer as that of a single step.

    Attributes:
        noise: ``η``, deviation of the noise on every rate, in Hz; 0 for none.

    Raises:
        TuneError: on negative noise.

    Example:
        >>> RateTraining().noise
        10.0
    """

    noise: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < inf:
            raise TuneError(f"RateTraining: noise must be at least 0 Hz, not {self.noise}")


@register_rule(RateTraining)
def rate_training(snn: SpikingNetwork, rule: RateTraining, task: Task) -> Learn:
    """Check that all neurons have a curve and return the step that learns from a batch.

    Raises:
        TuneError: on another neuron, or one whose curve has no slope at 1; naming it.
    """
    require_neurons(snn)
    for name, neuron in snn.neurons():
        if not isinstance(neuron, RateLIF):
            raise TuneError(
                f"{name} is a {type(neuron).__name__}, which has no curve of rates; train it with "
                "SurrogateBPTT(), or build the network with RateNeuron()"
            )
        if neuron.gamma == 0:
            raise TuneError(
                f"{name}: its curve is the hard one, infinitely steep where it begins; build the "
                "network with RateNeuron(gamma=0.02)"
            )
        neuron.threshold.requires_grad_(False)

    def instead(name: str, unit: Temporal, current: Tensor) -> Tensor:
        if not isinstance(unit, RateLIF):
            return unit.ann(current)
        rates = waver(unit.ann(current), rule.noise * unit.amplitude if rule.noise else 0.0)
        task.show(name, rates)
        return rates

    def learn(batch: Batch) -> Outcome:
        answers = snn.ann(batch.images, instead=instead)
        answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
        loss = task.criterion(answers.unsqueeze(0), batch)
        task.backward(loss)
        return Outcome(loss.detach(), answers.detach())

    return learn
