"""Neurons of one exact spike each, as settings that a configuration file can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from spiketune.snn import PSP, SpikingNetwork
from spiketune.snn.single_spike.timed import Scales

from .single_spike import single_spike


@dataclass(frozen=True, kw_only=True)
class FirstSpikeNeuron:
    """Neurons that fire once, at ``t_j = min{t: Σ_i w_ji ε(t - t_i) >= θ}``; see ``single_spike``.

    No ``NeuronKind``: there is no step at which such a neuron could be asked, so that a whole
    network is made of them, to be trained with ``STiDi``.

    Attributes:
        psp: ``ε``, the potential that a spike leaves behind; ``LinearPSP`` with ``τ = window`` by
            default.
        window: steps within which an image spikes.
        horizon: the end of time, in steps; the network's ``steps``.
        threshold: ``θ``.
        binary: whether weights are ``α sign(w)``, ``α`` learned.
        scales: one ``α`` for each layer, or for each neuron (of a convolution, each channel).
        sharpness: of the logits ``sharpness (1 - t/horizon)`` that a loss sees.
        negative: whether images spike as negatives too, in as many channels again.

    Source: Mirsadeghi et al. 2021, 2023 (STiDi-BP); the defaults are our own.

    Example:
        >>> FirstSpikeNeuron(horizon=24).network([nn.Linear(4, 3, bias=False)], (4,)).steps
        24
    """

    psp: PSP | None = None
    window: float = 16.0
    horizon: int = 32
    threshold: float = 1.0
    binary: bool = False
    scales: Scales = "layer"
    sharpness: float = 40.0
    negative: bool = False

    def network(self, layers: Iterable[nn.Module], input_shape: Sequence[int]) -> SpikingNetwork:
        """Return an untrained network of such neurons, images of 0 to 1 as its input.

        Args:
            layers: ``Conv2d``, ``MaxPool2d``, ``Flatten``, ``Linear``, without biases.
            input_shape: ``(C, H, W)`` of an image.

        Raises:
            ModelError: on a layer that spike times cannot pass, naming it.
            SpiketuneError: on settings out of range, or layers that do not fit one another.

        Example:
            >>> snn = FirstSpikeNeuron(binary=True).network([nn.Linear(4, 3, bias=False)], (4,))
            >>> snn.about["method"]
            'direct single spike'
        """
        return single_spike(
            layers, input_shape, psp=self.psp, window=self.window, horizon=self.horizon,
            threshold=self.threshold, binary=self.binary, scales=self.scales,
            sharpness=self.sharpness, negative=self.negative,
        )  # fmt: skip
