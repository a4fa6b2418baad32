"""Count spikes and operations while a network runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spiketune.snn import Neuron, SpikingNetwork, costs
from spiketune.snn.fused.tally import tally, tally_several

from .fan_out import FanOut


class Meter:
    """Run a spiking network and count what it spends, step by step.

    A spike is a spike whatever its sign or size; where a neuron sends several in one step, each
    counts. Accumulates follow the fan-out of ``snn.costs``: ``AC(t) = Σ_i 1[s_i(t) != 0] F_i``. All
    counts are whole numbers and exact.

    Args:
        snn: the network; its weights are read once, here.
        steps: how many steps every image gets.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3)).eval()
        >>> meter = Meter(st.to_snn(ann, torch.rand(16, 1, 2, 2), st.Ternary(steps=8)), steps=8)
        >>> _ = meter.unroll(torch.rand(5, 1, 2, 2))
        >>> spikes = 8 * meter.spikes_per_neuron(steps=8)  # of 8 neurons, 3 weights behind each
        >>> meter.images, meter.macs(8), round(meter.accumulates(8) / spikes, 6)
        (5, 32, 3.0)
    """

    def __init__(self, snn: SpikingNetwork, steps: int) -> None:
        self.costs = costs(snn)
        self.images = 0
        self._snn = snn
        self._steps = steps
        self._neurons = dict(snn.neurons())
        self._fan_out = {name: FanOut(met) for name, met in self.costs.fan_out.items()}
        device = next(iter(snn.parameters())).device
        self._spikes = torch.zeros(steps, dtype=torch.long, device=device)
        self._accumulates = torch.zeros(steps, dtype=torch.long, device=device)
        self._done: dict[str, int] = {}

    def unroll(self, x: Tensor) -> Any:
        """Return the curve ``[T, B, classes]`` of ``snn.unroll`` and count what it took."""
        self._done.clear()
        curve = self._snn.unroll(x, self._steps, monitor=self._count)
        self.images += len(x)
        return curve

    def spikes_per_neuron(self, steps: int) -> float:
        """Return the spikes a neuron and image during the first ``steps`` steps."""
        spikes = int(self._spikes[:steps].sum())
        return spikes / (self.images * self.costs.neurons) if self.costs.neurons else 0.0

    def accumulates(self, steps: int) -> float:
        """Return the accumulates an image during the first ``steps`` steps."""
        return int(self._accumulates[:steps].sum()) / self.images

    def macs(self, steps: int) -> int:
        """Return the multiply-accumulates an image: stem once, dense layers at every step."""
        return self.costs.stem_macs + self.costs.dense_macs * steps

    def _count(self, name: str, out: Tensor) -> None:
        """Take one chunk ``[T', B, ...]`` of one unit; chunks of a unit come in order."""
        start = self._done.get(name, 0)
        self._done[name] = end = start + len(out)
        if name not in self._fan_out:
            return
        neuron = self._neurons.get(name)
        # Most neurons send one spike or none, which counts without a look at its size.
        plain = neuron is None or type(neuron).events is Neuron.events
        events = out if neuron is None or plain else neuron.events(out, start)
        fan_out = self._fan_out[name]
        sent, weights = fan_out.beside(events)
        if plain or events.dtype == torch.bool:
            spikes, met = tally(sent, weights, fan_out.largest)
        else:
            spikes, met = tally_several(sent, weights)
        if neuron is not None:
            self._spikes[start:end] += spikes
        self._accumulates[start:end] += met
