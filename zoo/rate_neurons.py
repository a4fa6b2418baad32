"""The kind of neuron that trains as a rate and fires when it runs: soft LIF."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spiketune.snn import ATan, Firing, HardReset, Neuron, RateLIF

from .errors import ModelError
from .neurons import NeuronKind

_FIRING = Firing(reset=HardReset(), strict=True, surrogate=ATan())


@dataclass(frozen=True, kw_only=True)
class RateNeuron(NeuronKind):
    """LIF with a refractory time, trained by ``RateTraining`` as its soft LIF curve.

    It fires from a current of 1 on: give the layers in front biases, and start them at about 1.
    Its rate bends by itself and never exceeds ``1/tau_ref``, so that the ceiling of an activation
    which it replaces is left out.

    Attributes:
        dt: seconds of a step, at most ``tau_ref``.
        tau_rc: time constant of the membrane, in seconds.
        tau_ref: rest after a spike, in seconds.
        gamma: how far the bend of the curve is smoothed, in units of the current.
        amplitude: what a rate of one spike a second counts as; with 0.01 a rate of 100 Hz is 1.

    Raises:
        ModelError: on a step or amplitude that is not above 0.
        SpiketuneError: on other settings that give no curve, as for ``RateLIF``.

    Source: Hunsberger & Eliasmith 2015 and 2016; defaults as remembered.

    Example:
        >>> RateNeuron(dt=0.002).make(steps=50).threshold.item()  # of a spike: A/Δ
        5.0
    """

    firing: Firing = _FIRING
    dt: float = 0.001
    tau_rc: float = 0.02
    tau_ref: float = 0.002
    gamma: float = 0.02
    amplitude: float = 0.01

    def __post_init__(self) -> None:
        for name, usual in (("dt", 0.001), ("amplitude", 0.01)):
            if not 0 < getattr(self, name) < float("inf"):
                raise ModelError(
                    f"{name} must be above 0, not {getattr(self, name)}; {usual} is usual"
                )
        self.make(steps=1)  # refuses what else gives no curve

    def make(self, *, steps: int, ceiling: float | None = None) -> Neuron:
        """Return ``RateLIF`` neurons."""
        return RateLIF(
            torch.tensor(self.amplitude / self.dt),
            dt=self.dt, tau_rc=self.tau_rc, tau_ref=self.tau_ref, gamma=self.gamma,
            firing=self.firing,
        )  # fmt: skip

    def drive(self) -> float:
        """Refuse: it rests after every spike."""
        raise ModelError(
            "no current makes a RateNeuron fire at every step, for it rests after a spike, so an "
            "AND block of them cannot begin as the identity; use connect='add' or 'iand'"
        )
