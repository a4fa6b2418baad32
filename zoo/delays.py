"""Axonal delays as a setting of networks that are trained directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spiketune.snn import SpikingNetwork, add_delays


@dataclass(frozen=True, kw_only=True)
class Delays:
    """Delays behind every layer but the last, learned with the weights; see ``snn.add_delays``.

    Attributes:
        start: in steps, or two bounds to draw each delay between.
        per: what has a delay of its own.
        maximum: one step less than the network's by default.
        diff: the difference that stands for a derivative.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("digits_resnet", 10, 8, in_chans=1, neuron=st.SRMNeuron())
        >>> Delays(start=2.0).add(snn)
        >>> sum(isinstance(unit, st.Delay) for unit in snn.modules())
        7
    """

    start: float | tuple[float, float] = 0.0
    per: Literal["layer", "channel", "neuron"] = "channel"
    maximum: float | None = None
    diff: Literal["backward", "central"] = "central"

    def add(self, snn: SpikingNetwork) -> None:
        """Put them into a network."""
        add_delays(snn, start=self.start, per=self.per, maximum=self.maximum, diff=self.diff)
