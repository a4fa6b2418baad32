"""Integrate-and-fire neurons with binary spikes: the oldest conversion, and the simplest hardware.

``v += c``; ``s = 1[v >= θ]``; ``v -= θ s``. Averaged over T steps a neuron says
``θ/T clip(floor(TΣc/(Tθ) + v_0/θ), 0, T)`` of a constant current. A spike sent too early, while
the layers before had not settled, cannot be taken back: the unevenness error.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spiketune.snn import IF

from .method import Method, register_method


@dataclass(frozen=True, kw_only=True)
class Binary(Method):
    """Convert to soft-reset integrate-and-fire neurons, spikes in {0, 1}.

    Source: Rueckauer et al. 2017 (soft reset); Bu et al. 2022 for ``initial = 0.5``.

    Example:
        >>> Binary(steps=32).steps
        32
    """

    spikes = "binary"


@register_method(Binary)
def _neuron(method: Binary, threshold: Tensor, ceiling: float | None) -> IF:
    return IF(threshold, initial=method.initial, ceiling=ceiling)
