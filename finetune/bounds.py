"""Keep what trains in its range, whatever an update asks for: thresholds, leaks, delays."""

from __future__ import annotations

import torch
from torch import Tensor

from spiketune.snn import LIF, SpikingNetwork, Temporal

# A threshold near zero makes a neuron fire at every step: it may shrink a hundredfold, no further.
SMALLEST = 0.01


def floors(snn: SpikingNetwork) -> dict[str, Tensor]:
    """Return, by neuron, the smallest threshold it may have: a share of what it has now."""
    return {name: SMALLEST * neuron.threshold.detach() for name, neuron in snn.neurons()}


def keep_within(snn: SpikingNetwork, smallest: dict[str, Tensor]) -> None:
    """Move what an update pushed out of its range back to its border."""
    with torch.no_grad():
        for name, neuron in snn.neurons():
            neuron.threshold.copy_(torch.maximum(neuron.threshold, smallest[name]))
            if isinstance(neuron, LIF) and neuron.leak.requires_grad:
                neuron.leak.clamp_(SMALLEST, 1.0)
        for unit in snn.modules():
            for name, (low, high) in unit.limits.items() if isinstance(unit, Temporal) else ():
                getattr(unit, name).clamp_(low, high)
