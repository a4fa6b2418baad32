"""Signed integrate-and-fire neurons with a tracer: a spike sent too early is taken back.

``s = +1`` if ``v >= θ``; ``s = -1`` if ``v < 0`` and more was sent than taken back. With
``drive = L`` the network comes to rest at exactly the answer of the ANN quantised to ``L`` levels,
``Q(z) = θ/L clip(floor(L z/θ + 1/2), 0, L)`` in the place of every activation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spiketune.snn import Graded as GradedNeuron
from spiketune.snn import Neuron, SignedIF

from .method import Ceiling, Integrating, register_method


@dataclass(frozen=True, kw_only=True)
class Ternary(Integrating):
    """Convert to signed integrate-and-fire neurons, spikes in {-1, 0, 1}.

    Attributes:
        encode: also put neurons in front of weights that no ReLU feeds, so that they see spikes.

    Source: Wang et al. 2022 (signed neuron with memory); You et al. 2024 (ST-BIF, tracer).

    Example:
        >>> Ternary(steps=16).spikes
        'ternary'
    """

    encode: bool = True

    spikes = "ternary"


@register_method(Ternary)
def _neuron(
    method: Ternary, threshold: Tensor, floor: float | None, ceiling: Ceiling
) -> Neuron | None:
    if floor != 0:
        if floor is None and ceiling is None and not method.encode:
            return None
        return GradedNeuron(threshold, levels=1, drive=method.drive, floor=floor, ceiling=ceiling)
    return SignedIF(threshold, initial=method.initial, ceiling=ceiling, limit=method.drive)
