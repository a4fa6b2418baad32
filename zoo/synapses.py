"""Synapses as a setting of networks that are trained directly."""

from __future__ import annotations

from dataclasses import dataclass

from spiketune.snn import SpikingNetwork, add_synapses


@dataclass(frozen=True, kw_only=True)
class Synapses:
    """A low-pass filter in front of every neuron; see ``snn.add_synapses``.

    Attributes:
        tau: time constant in steps, at least 1.
        output: filter the answer too, of a network that ends in neurons.
        delayed: let each act a step later.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("digits_resnet", 10, 8, in_chans=1)
        >>> Synapses(tau=2.0).add(snn)
        >>> sum(isinstance(unit, st.Synapse) for unit in snn.modules())
        7
    """

    tau: float = 4.0
    output: bool = False
    delayed: bool = False

    def add(self, snn: SpikingNetwork) -> None:
        """Put them into a network."""
        add_synapses(snn, self.tau, output=self.output, delayed=self.delayed)
