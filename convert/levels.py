"""What a neuron can say of a constant current: evenly spaced levels, within a range.

A current ``z`` that arrives at the same strength in every step is answered by
``Q(z) = q clip(floor(f(z)/q + o), k_0, k_1)``: ``f`` is the activation, ``q`` the quantum, ``o``
the membrane at the start. What the real answer differs from this is a matter of timing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from math import inf

import torch
from torch import Tensor

from spiketune.snn import IF, Burst, Graded, Neuron, SignedIF


@dataclass(frozen=True)
class Levels:
    """The answers that a neuron can give.

    Attributes:
        quantum: ``q``, distance of two answers, broadcastable to one sample; 0 for none.
        offset: ``o``, in quanta; one half rounds.
        least: the lowest answer, in the units of the current.
        most: the highest answer.
        signed: whether negative values are treated as positive ones mirrored.

    Example:
        >>> three = Levels(torch.tensor(0.5), 0.5, torch.tensor(0.0), torch.tensor(1.0))
        >>> three.quantised(torch.tensor([-1.0, 0.3, 0.8, 7.0])).tolist()
        [0.0, 0.5, 1.0, 1.0]
    """

    quantum: Tensor
    offset: Tensor | float
    least: Tensor
    most: Tensor
    signed: bool = False

    def clipped(self, active: Tensor) -> Tensor:
        """Return activations ``[B, ...]`` within the range."""
        return torch.minimum(torch.maximum(active, self.least), self.most)

    def quantised(self, active: Tensor) -> Tensor:
        """Return ``Q`` of activations ``[B, ...]``."""
        step = torch.where(self.quantum > 0, self.quantum, 1)
        size = active.abs() if self.signed else active
        level = (size / step + self.offset).floor() * step
        level = level * active.sign() if self.signed else level
        return self.clipped(torch.where(self.quantum > 0, level, active))

    @property
    def count(self) -> float:
        """How many quanta the range holds, the median over channels; infinite without bounds."""
        if not bool((self.quantum > 0).all()):
            return inf
        return float(((self.most - self.least) / self.quantum).median())


@singledispatch
def levels(neuron: Neuron, count: int, steps: float) -> Levels:
    """Return what a neuron can say within some steps.

    Args:
        neuron: of any type; of one that is not known here every value is taken to be sayable.
        count: steps that the sum of all spikes is divided by, ``min(T, D)``.
        steps: ``T``; infinite for the answer at which a signed neuron comes to rest.

    Example:
        >>> levels(SignedIF(torch.tensor(1.0), limit=4), count=4, steps=8).count
        4.0
    """
    endless = torch.full_like(neuron.threshold.detach(), inf)
    return Levels(torch.zeros_like(endless), 0.0, -endless, endless)


@levels.register
def _(neuron: IF, count: int, steps: float) -> Levels:
    quantum = neuron.threshold.detach() / count
    return Levels(quantum, neuron.initial, torch.zeros_like(quantum), quantum * steps)


@levels.register
def _(neuron: SignedIF, count: int, steps: float) -> Levels:
    quantum = neuron.threshold.detach() / count
    limit = steps if neuron.limit is None else min(neuron.limit, steps)
    return Levels(quantum, neuron.initial, torch.zeros_like(quantum), quantum * limit)


@levels.register
def _(neuron: Burst, count: int, steps: float) -> Levels:
    threshold = neuron.threshold.detach()
    spikes = torch.full_like(threshold, neuron.most * steps)
    if neuron.ceiling is not None:
        spikes = spikes.minimum((steps * neuron.ceiling / threshold).floor())
    quantum = threshold / count
    return Levels(quantum, neuron.initial, torch.zeros_like(quantum), quantum * spikes)


@levels.register
def _(neuron: Graded, count: int, steps: float) -> Levels:
    threshold = neuron.threshold.detach()
    endless = steps == inf
    weights = [neuron.schedule(t + 1) for t in range(1 if endless else int(steps))]
    finest = threshold * weights[-1] * 0.5 ** (neuron.levels - 1)
    reach = threshold * (inf if endless else neuron.spikes * sum(weights)) / count
    least = torch.zeros_like(reach) if neuron.floor == 0 else -reach
    return Levels(finest / count, 0.5, least, reach, signed=True)
