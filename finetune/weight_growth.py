"""The penalty of HM2-BP and ST-RSBP that keeps weights from growing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spiketune.snn import Recurrent, SpikingNetwork, Temporal
from spiketune.snn.checks import positive

from .errors import TuneError


@dataclass(frozen=True, kw_only=True)
class WeightGrowth:
    """Adds ``λ β (w/s) exp(β (mean_j (w_ij/s)² - 1))`` to the gradient of each weight ``w_ij``.

    The mean runs over what reaches one neuron or one output channel: once its weights are about
    ``s`` in size, what pulls them back grows ever faster.

    Attributes:
        strength: ``λ``.
        steepness: ``β``.
        scale: ``s``, in the units of the weights. The papers' 8 is for thresholds of 15 to 20: half
            a threshold, so 0.5 where thresholds are 1.

    Raises:
        TuneError: on a value that is not above zero.

    Source: the programs of Jin, Zhang & Li 2018 (HM2-BP) and Zhang & Li 2019 (ST-RSBP): 10, 0.04.

    Example:
        >>> WeightGrowth(scale=0.25).steepness
        0.04
    """

    strength: float = 10.0
    steepness: float = 0.04
    scale: float = 0.5

    def __post_init__(self) -> None:
        for name in ("strength", "steepness", "scale"):
            value = getattr(self, name)
            if not positive(value):
                raise TuneError(f"WeightGrowth: {name} must be above 0, not {value!r}")


def growth_penalty(snn: SpikingNetwork, growth: WeightGrowth) -> Tensor:
    """Return a scalar whose gradient is that of ``WeightGrowth``; its value means nothing.

    Example:
        >>> import spiketune as st
        >>> from torch import nn
        >>> snn = st.twin(nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU()), 3, (4,))
        >>> weight = snn.net.get_parameter("0.weight")
        >>> growth_penalty(snn, WeightGrowth()).backward()
        >>> bool((weight.grad * weight > 0).all())
        True
    """
    total = next(iter(snn.parameters())).new_zeros(())
    for weight, inputs in _weights(snn):
        squares = (weight / growth.scale).square().flatten(1).sum(1)
        mean = squares.detach() / inputs
        pull = growth.strength * growth.steepness * (growth.steepness * (mean - 1)).exp()
        total = total + torch.dot(pull, squares * growth.scale / 2)
    return total


def _weights(snn: SpikingNetwork) -> Iterator[tuple[Tensor, Tensor | int]]:
    """Yield the weights that train, a row for each neuron, and how many inputs a neuron has.

    Thresholds and delays have dimensions of places too, and are no weights.
    """
    for unit in snn.net.modules():
        if isinstance(unit, Recurrent):
            if unit.weight.requires_grad:
                yield unit.weights(), unit.wiring.sum(1).clamp_min(1)
        elif not isinstance(unit, Temporal):
            for weight in unit.parameters(recurse=False):
                if weight.requires_grad and weight.dim() > 1:
                    yield weight, weight[0].numel()
