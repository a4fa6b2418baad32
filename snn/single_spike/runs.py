"""Look into a network of spike times: its layers, and every spike time of some images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.fx import Node

from ..chunk import only_input
from ..errors import SpiketuneError
from ..network import SpikingNetwork
from .race import Race
from .timed import Timed


class Times(NamedTuple):
    """The spike times of some images, in steps; from the horizon on there was no spike.

    Attributes:
        arriving: by layer, the times ``[B, C, H, W]`` that its weights meet.
        fired: by layer, the times ``[B, K, ...]`` of its neurons.
        output: the times ``[B, classes]`` that race.

    Example:
        >>> import torch, spiketune as st
        >>> layers = [torch.nn.Flatten(), torch.nn.Linear(4, 3, bias=False)]
        >>> times = spike_times_of(st.single_spike(layers, (1, 2, 2)), torch.rand(5, 1, 2, 2))
        >>> list(times.fired), list(times.output.shape)
        (['linear1'], [5, 3])
    """

    arriving: dict[str, Tensor]
    fired: dict[str, Tensor]
    output: Tensor


def timed_layers(snn: SpikingNetwork) -> dict[str, Timed]:
    """Return the layers whose neurons fire once, by the name of their nodes; none of other nets.

    Example:
        >>> import torch, spiketune as st
        >>> list(timed_layers(st.single_spike([torch.nn.Linear(4, 3, bias=False)], (4,))))
        ['linear1']
    """
    return {node.name: layer for node, layer in _nodes(snn)}


def race_of(snn: SpikingNetwork) -> Race:
    """Return the unit in which the classes race.

    Raises:
        SpiketuneError: if the network has none.

    Example:
        >>> import torch, spiketune as st
        >>> race_of(st.single_spike([torch.nn.Linear(4, 3, bias=False)], (4,), horizon=24)).horizon
        24
    """
    for unit in snn.modules():
        if isinstance(unit, Race):
            return unit
    raise SpiketuneError(
        "the network sends spikes at every step, not one spike a neuron; build one of exact spike "
        "times with single_spike([...], input_shape)"
    )


def refuse_times(snn: SpikingNetwork, why: str) -> None:
    """Refuse a network of exact spike times, where neurons over steps are needed.

    Args:
        snn: any network.
        why: what is needed of it, and the remedy.

    Raises:
        SpiketuneError: naming the first of its layers.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.single_spike([torch.nn.Linear(4, 3, bias=False)], (4,))
        >>> refuse_times(snn, "which has no frames; give it images")
        Traceback (most recent call last):
        spiketune.snn.errors.SpiketuneError: linear1 sends one spike a neuron at an exact time, ...
    """
    for name in timed_layers(snn):
        raise SpiketuneError(f"{name} sends one spike a neuron at an exact time, {why}")


def spike_times_of(snn: SpikingNetwork, x: Tensor) -> Times:
    """Return every spike time of images ``[B, C, H, W]``, gradients kept.

    Raises:
        SpiketuneError: if the network is none of spike times, or the images do not fit it.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.single_spike([torch.nn.Linear(4, 3, bias=False)], (4,))
        >>> bool((spike_times_of(snn, torch.zeros(1, 4)).output >= 32).all())  # black: no spike
        True
    """
    race_of(snn)
    snn._check_images(x)
    layers = dict(_nodes(snn))
    arriving: dict[str, Tensor] = {}
    fired: dict[str, Tensor] = {}
    values: dict[Node, Tensor] = {}
    wanted = {only_input(node): node for node in layers}
    (output,) = snn.net.graph.find_nodes(op="output")
    race = only_input(output)

    def record(node: Node, value: Tensor) -> None:
        if node in wanted:
            arriving[wanted[node].name] = layers[wanted[node]].arriving(value)
        if node in layers:
            fired[node.name] = value
        if node is only_input(race):
            values[node] = value

    snn.program.ann(x, record=record)
    return Times(arriving, fired, values[only_input(race)])


def _nodes(snn: SpikingNetwork) -> list[tuple[Node, Timed]]:
    found = []
    for node in snn.net.graph.find_nodes(op="call_module"):
        unit = snn.net.get_submodule(str(node.target))
        if isinstance(unit, Timed):
            found.append((node, unit))
    return found
