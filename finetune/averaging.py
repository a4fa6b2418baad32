"""An exponential moving average of the weights, timm's ``ModelEmaV3``.

Update ``n`` moves the average by ``w' <- d_n w' + (1 - d_n) w``, ``d_n = min(d, 1 - n^(-2/3))``:
early on, when the weights move most, it forgets fast. Buffers are averaged too, so that the
statistics of BatchNorm stay near those of the averaged weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spiketune.snn import SpikingNetwork


class Average:
    """The averaged copy of a network.

    Args:
        snn: the network that trains.
        decay: ``d``.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=2, in_chans=1, image_size=32)
        >>> average = Average(snn, 0.99)
        >>> average.update(snn, 1)
        >>> list(average.tensors) == list(snn.state_dict())
        True
    """

    def __init__(self, snn: SpikingNetwork, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self._ema: Any = ModelEmaV3(snn, decay=decay, use_warmup=True)

    @property
    def network(self) -> SpikingNetwork:
        """The network with averaged weights, in evaluation mode."""
        network: SpikingNetwork = self._ema.module
        return network

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and buffers by name."""
        return dict(self.network.state_dict())

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        self.network.load_state_dict(tensors)

    def update(self, snn: SpikingNetwork, number: int) -> None:
        """Take the weights after update ``number``, from 1, into the average."""
        self._ema.update(snn, step=number)
