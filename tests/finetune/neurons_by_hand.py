"""One leaky neuron, step by step, that knows nothing of the library's own steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiketune.snn import Firing, HardReset

Array = NDArray[np.float64]


def spikes_and_potentials(
    currents: Array, start: float, threshold: float, leak: float, firing: Firing, flip: int = -1
) -> tuple[Array, Array, float]:
    """Run one neuron by hand; in step ``flip`` it does the contrary at a potential of θ."""
    membrane, spikes, potentials = start, [], []
    for t, current in enumerate(currents):
        u = leak * membrane + current
        fires = u / threshold > 1 if firing.strict else u / threshold >= 1
        if t == flip:
            u, fires = threshold, not fires
        if fires:
            membrane = firing.reset.to if isinstance(firing.reset, HardReset) else u - threshold
        else:
            membrane = u
        spikes.append(float(fires))
        potentials.append(u)
    return np.array(spikes), np.array(potentials), membrane
