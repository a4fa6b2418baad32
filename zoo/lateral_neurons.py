"""Neurons that inhibit each other, as a kind for networks that are trained directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from spiketune.snn import Lateral, Neuron

from .errors import ModelError
from .neurons import NeuronKind


@dataclass(frozen=True, kw_only=True)
class LateralNeuron(NeuronKind):
    """Leaky neuron with a soft reset that its group's spikes set back too; see ``snn.Lateral``.

    Attributes:
        leak: ``λ`` in (0, 1].
        inhibition: ``κ`` from 0 to 0.99; 0 leaves every neuron to itself.
        group: ``layer`` or ``pixel``.
        bare: send ``s`` in the place of ``θ s``, as Lee et al. do.

    Source: Lee, Delbruck & Pfeiffer 2016.

    Example:
        >>> LateralNeuron(leak=0.9, inhibition=0.25).make(steps=4).inhibition.item()
        0.25
    """

    leak: float = 0.95
    inhibition: float = 0.1
    group: Literal["layer", "pixel"] = "layer"
    bare: bool = False

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``Lateral`` neurons."""
        return Lateral(
            torch.ones(()),
            leak=self.leak,
            inhibition=self.inhibition,
            group=self.group,
            bare=self.bare,
            ceiling=ceiling,
            firing=self.firing,
        )

    def drive(self) -> float:
        """Refuse: what a neuron needs depends on how many of its group fire."""
        if self.inhibition:
            raise ModelError(
                "no constant current makes a LateralNeuron fire at every step whatever its group "
                "does, so an AND block of them cannot begin as the identity; use connect='add' or "
                "'iand', or inhibition=0"
            )
        return super().drive()
