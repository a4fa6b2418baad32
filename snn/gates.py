"""Gates between spike trains, as spike-element-wise residual networks have them.

A gate acts on each step's spikes by themselves: a directly trained network sees what arrives in a
step, not what has arrived so far. ``o`` is what a neuron of threshold ``θ`` sends, so that ``o/θ``
is 0 or 1 and the spikes that pass keep their size, whatever the thresholds were trained to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from .units import register_unit


class Gate(nn.Module, ABC):
    """Base of the gates.

    Example:
        >>> isinstance(And(), Gate)
        True
    """

    @abstractmethod
    def forward(self, spikes: Tensor, sent: Tensor, threshold: Tensor) -> Tensor:
        """Return what passes of ``spikes [..., C, H, W]``, given what a neuron sent."""


@register_unit
class And(Gate):
    """``y = x o/θ``: a spike passes where the neuron fires in the same step.

    Source: Fang et al. 2021 (SEW-ResNet), table 1.

    Example:
        >>> import torch
        >>> And()(torch.tensor([1.0, 1, 0]), torch.tensor([0.5, 0, 0.5]), torch.tensor(0.5))
        tensor([1., 0., 0.])
    """

    def forward(self, spikes: Tensor, sent: Tensor, threshold: Tensor) -> Tensor:
        """Return the spikes in the steps in which the neuron fires."""
        return spikes * (sent / threshold)


@register_unit
class Iand(Gate):
    """``y = x (1 - o/θ)``: a spike passes where the neuron is silent in the same step.

    Source: Fang et al. 2021 (SEW-ResNet), table 1.

    Example:
        >>> import torch
        >>> Iand()(torch.tensor([1.0, 1, 0]), torch.tensor([0.5, 0, 0.5]), torch.tensor(0.5))
        tensor([0., 1., 0.])
    """

    def forward(self, spikes: Tensor, sent: Tensor, threshold: Tensor) -> Tensor:
        """Return the spikes in the steps in which the neuron is silent."""
        return spikes * (1 - sent / threshold)


# Units without a memory that take each step's spikes and let spikes out; which of them is known
# only while running.
MOMENTARY: tuple[type[nn.Module], ...] = (nn.MaxPool2d, Gate)
