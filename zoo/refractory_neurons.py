"""The neurons of HM2-BP and ST-RSBP as a kind for networks that are trained directly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spiketune.snn import Firing, HardReset, Neuron, Refractory

from .errors import ModelError
from .neurons import NeuronKind


@dataclass(frozen=True, kw_only=True)
class RefractoryNeuron(NeuronKind):
    """Leaky neuron that rests for ``period`` steps after a spike; see ``snn.Refractory``.

    Attributes:
        leak: ``λ = 1 - 1/τ_m`` in (0, 1].
        period: in steps.

    Source: Jin, Zhang & Li 2018 (HM2-BP); Zhang & Li 2019 (ST-RSBP). Their ``τ_m = 64`` and
    ``period = 2`` are for runs of 400 steps.

    Example:
        >>> RefractoryNeuron(period=1).make(steps=4).period
        1
    """

    leak: float = 1 - 1 / 64
    period: int = 2
    firing: Firing = Firing(reset=HardReset(), strict=True)  # noqa: RUF009 (frozen)

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``Refractory`` neurons."""
        return Refractory(
            torch.ones(()),
            leak=self.leak,
            period=self.period,
            ceiling=ceiling,
            firing=self.firing,
        )

    def drive(self) -> float:
        """Refuse, unless there is no period: at other steps it rests."""
        if self.period:
            raise ModelError(
                f"a RefractoryNeuron rests for {self.period} steps after a spike, so an AND block "
                "of them cannot begin as the identity; use connect='add' or 'iand', or period=0"
            )
        return super().drive()
