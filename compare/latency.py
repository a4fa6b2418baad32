"""Networks of exact spike times beside the others: a budget of steps is a latency."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spiketune.snn import SpikingNetwork, race_of, spike_times_of, timed_layers

from .runners import Runner, register_runner


class SingleSpikes:
    """A network of one spike a neuron: the answer at ``n`` steps is by what has fired until then.

    Counted are spikes of neurons, ``t_j <= n``, and accumulates: each spike that arrives adds a
    weight to the slope, or to the potential, of each membrane that it reaches, at every knot of the
    shape that it leaves there. Membranes that grow by themselves cost nothing here, as leaks cost
    nothing elsewhere. The image comes as spikes, so that there are no MACs.

    Args:
        snn: the network; its weights are read once, here.
        budgets: latencies, in steps.
        image: ``[1, ...]``, for the sizes.

    Example:
        >>> import spiketune as st
        >>> snn = st.single_spike([torch.nn.Linear(4, 3, bias=False)], (4,), horizon=8, window=4)
        >>> run = SingleSpikes(snn, [8], torch.zeros(1, 4))
        >>> list(run.answers(torch.ones(2, 4)).shape), run.spent(8)[1:]
        ([1, 2, 3], (12.0, 0))
    """

    kind = "single"

    def __init__(self, snn: SpikingNetwork, budgets: Sequence[int], image: Tensor) -> None:
        self._snn, self._race = snn, race_of(snn)
        self._layers, self._steps = timed_layers(snn), max(budgets)
        self._places = [budget - 1 for budget in budgets]
        with torch.no_grad():
            times = spike_times_of(snn, image[:1])
        self._neurons = sum(one[0].numel() for one in times.fired.values())
        self._fan_out = {
            name: layer.fan_out(times.arriving[name]) for name, layer in self._layers.items()
        }
        self._spikes, self._accumulates = torch.zeros(2, self._steps + 1, dtype=torch.float64)
        self._images = 0

    def answers(self, x: Tensor) -> Tensor:
        """Return the answers ``[budgets, B, classes]`` and count what they took."""
        times = spike_times_of(self._snn, x)
        for fired in times.fired.values():
            self._spikes += self._count(fired, torch.ones_like(fired[0]))
        for name, layer in self._layers.items():
            for knot in layer.psp.knots:
                arriving = times.arriving[name]
                bent = torch.where(arriving < layer.horizon, arriving + knot.at, arriving)
                self._accumulates += self._count(bent, self._fan_out[name])
        self._images += len(x)
        outputs, _ = self._race(times.output.expand(self._steps, *times.output.shape))
        curve: Tensor = self._snn.readout(outputs, self._snn.drive)
        return curve[self._places]

    def spent(self, steps: int) -> tuple[float | None, float, int]:
        """Return spikes a neuron and accumulates an image within a latency."""
        spikes = float(self._spikes[: steps + 1].sum()) / (self._images * self._neurons)
        return spikes, float(self._accumulates[: steps + 1].sum()) / self._images, 0

    def _count(self, times: Tensor, weights: Tensor) -> Tensor:
        """Return how much comes in each step, times beyond the last one left out."""
        come = times < min(self._race.horizon, self._steps + 1)
        step = times.ceil().clamp_min(1).long()
        inside = come & (step <= self._steps)
        amounts = weights.expand_as(times)[inside].double()
        return torch.bincount(step[inside], amounts, minlength=self._steps + 1).cpu()


@register_runner(lambda model: isinstance(model, SpikingNetwork) and bool(timed_layers(model)))
def latency(model: SpikingNetwork, budgets: Sequence[int], image: Tensor) -> Runner:
    """Return the runner of a network of exact spike times."""
    return SingleSpikes(model, budgets, image)
