"""Signed integrate-and-fire neurons with a tracer: a spike sent too early is taken back.

``s = +1`` if ``v >= θ``; ``s = -1`` if ``v < 0`` and more was sent than taken back. With
``drive = L`` the network comes to rest at exactly the answer of the ANN quantised to ``L`` levels,
``Q(z) = θ/L clip(floor(L z/θ + 1/2), 0, L)`` in the place of every activation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spiketune.snn import SignedIF

from .method import Method, register_method


@dataclass(frozen=True, kw_only=True)
class Ternary(Method):
    """Convert to signed integrate-and-fire neurons, spikes in {-1, 0, 1}.

    Source: Wang et al. 2022 (signed neuron with memory); You et al. 2024 (ST-BIF, tracer).

    Example:
        >>> Ternary(steps=16).spikes
        'ternary'
    """

    spikes = "ternary"


@register_method(Ternary)
def _neuron(method: Ternary, threshold: Tensor, ceiling: float | None) -> SignedIF:
    return SignedIF(threshold, initial=method.initial, ceiling=ceiling, limit=method.drive)
