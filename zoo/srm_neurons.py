"""Spike response neurons as a kind of neuron for networks that are trained directly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spiketune.snn import SRM, Firing, Laplace, Neuron

from .errors import ModelError
from .neurons import NeuronKind

_LAPLACE = Firing(surrogate=Laplace())


@dataclass(frozen=True, kw_only=True)
class SRMNeuron(NeuronKind):
    """Spike response neurons: ``u = ε * c + ν * s``, with their synapse and without a reset.

    What a layer sends acts a step later, so ``k`` layers need ``k`` steps more than the kernels.
    A response peaks after ``tau_synapse`` steps; the whole of it comes to ``e τ_s`` times the
    weight, so that the last layer's weights are better small: outputs that fire without end
    silence the layers before them while they learn.

    Attributes:
        tau_synapse: ``τ_s``, in steps.
        tau_refractory: ``τ_r``, in steps.
        refractory: the deepest that one spike pushes the membrane, in thresholds.

    Source: Shrestha & Orchard 2018 (SLAYER): 10 ms, 1 ms and 2, at steps of 1 ms. For fewer steps
    divide the time constants alike.

    Example:
        >>> SRMNeuron(tau_synapse=3.0).make(steps=30).tau_synapse
        3.0
    """

    tau_synapse: float = 10.0
    tau_refractory: float = 1.0
    refractory: float = 2.0
    firing: Firing = _LAPLACE

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``SRM`` neurons."""
        return SRM(
            torch.ones(()),
            tau_synapse=self.tau_synapse,
            tau_refractory=self.tau_refractory,
            refractory=self.refractory,
            ceiling=ceiling,
            firing=self.firing,
        )

    def drive(self) -> float:
        """Refuse: nothing that arrives acts in the step in which it does."""
        raise ModelError(
            "no current makes an SRMNeuron fire at every step, for it acts a step later, so an AND "
            "block of them cannot begin as the identity; use connect='add' or 'iand'"
        )
