"""The kinds of neuron that a directly trained network may be made of: one dataclass each.

All start with threshold 1, so that what a layer sends is counted in thresholds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from spiketune.snn import IF, LIF, PLIF, PSN, ATan, Firing, HardReset, Neuron, decay_of

from .errors import ModelError

# More than rounding can take away from a sum that is to reach the threshold.
_SLACK = 1e-5
# Hard reset to 0, arc tangent slope, reset left out of the gradient: Fang et al. 2021 (PLIF, SEW).
HARD = Firing(reset=HardReset(), surrogate=ATan())
# A slope that is zero a threshold away, as the triangle is, would leave joins silent for ever:
# their last BatchNorm starts at zero, and so does the membrane behind it.
_SOFT = Firing(surrogate=ATan())
_WITHOUT_RESET = Firing(surrogate=ATan())


@dataclass(frozen=True, kw_only=True)
class NeuronKind(ABC):
    """Base of the kinds of neuron.

    A training rule that sets a slope of its own, as ``SurrogateBPTT`` does, replaces the one in
    ``firing``: give it the slope there.

    Attributes:
        firing: reset, comparison, surrogate.

    Example:
        >>> LeakyNeuron(leak=0.5).make(steps=4).leak.item()
        0.5
    """

    firing: Firing = _SOFT

    @abstractmethod
    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return one layer's neurons of threshold 1.

        Args:
            steps: ``T`` the network is made for.
            ceiling: of the activation that they replace.
        """

    def drive(self) -> float:
        """Return a constant current, in thresholds, that makes it fire at every step.

        Raises:
            ModelError: where there is none.
        """
        reset = self.firing.reset
        below = min(reset.to, 0.0) if isinstance(reset, HardReset) else 0.0
        return (1 - below) * (1 + _SLACK * self.firing.strict)


@dataclass(frozen=True, kw_only=True)
class PlainNeuron(NeuronKind):
    """Integrate-and-fire: ``v += c``.

    Example:
        >>> type(PlainNeuron().make(steps=4)).__name__
        'IF'
    """

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``IF`` neurons."""
        return IF(torch.ones(()), ceiling=ceiling, firing=self.firing)


@dataclass(frozen=True, kw_only=True)
class LeakyNeuron(NeuronKind):
    """Leaky integrate-and-fire: ``v = λ v + c``.

    Attributes:
        leak: ``λ`` in (0, 1].

    Example:
        >>> type(LeakyNeuron(leak=0.9).make(steps=4)).__name__
        'LIF'
    """

    leak: float = 0.5

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``LIF`` neurons."""
        return LIF(torch.ones(()), leak=self.leak, ceiling=ceiling, firing=self.firing)


@dataclass(frozen=True, kw_only=True)
class ParametricNeuron(NeuronKind):
    """PLIF, which learns its time constant: ``v += sigmoid(w) (c - (v - v_r))``.

    A current of one threshold, such as a lone spike on a residual path, never makes it fire within
    few steps: residual networks of it are better built by ``sew_resnet``.

    Attributes:
        tau: time constant ``τ`` at the start, in steps; ``w = -ln(τ - 1)``.

    Source: Fang et al. 2021 (PLIF).

    Example:
        >>> round(ParametricNeuron(tau=4.0).make(steps=4).decay.sigmoid().item(), 4)
        0.25
    """

    tau: float = 2.0
    firing: Firing = HARD

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``PLIF`` neurons."""
        decay = decay_of(self.tau)
        return PLIF(torch.ones(()), decay=decay, ceiling=ceiling, firing=self.firing)

    def drive(self) -> float:
        """Return ``τ`` thresholds and a little, which charge the membrane within one step."""
        return self.tau * super().drive() * (1 + _SLACK)


@dataclass(frozen=True, kw_only=True)
class ParallelNeuron(NeuronKind):
    """PSN, which computes all its steps at once: ``H = W c``, ``s[t] = 1[H[t] >= B[t]]``.

    The network then runs at the steps that it was made for, and at no others.

    Attributes:
        order: steps that one sees, itself and those before it; None for all, the later included.

    Source: Fang et al. 2023 (PSN).

    Example:
        >>> ParallelNeuron(order=2).make(steps=4).mixing().count_nonzero().item()
        7
    """

    order: int | None = None
    firing: Firing = _WITHOUT_RESET

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``PSN`` neurons."""
        one = torch.ones(())
        return PSN(one, steps=steps, order=self.order, ceiling=ceiling, firing=self.firing)

    def drive(self) -> float:
        """Refuse: its weights are drawn with either sign."""
        raise ModelError(
            "no constant current makes a ParallelNeuron fire at every step, so an AND block of "
            "them cannot begin as the identity; use connect='add' or 'iand'"
        )
