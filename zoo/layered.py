"""Untrained networks from the words in which papers write them: ``32C5-P2-64C5-P2-1024``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from spiketune.snn import SpikingNetwork, add_frames, add_recurrence, reservoir
from spiketune.snn.checks import number, positive

from .delays import Delays
from .errors import ModelError
from .neurons import NeuronKind
from .pooling import WindowSum
from .single_spike_neurons import FirstSpikeNeuron
from .spiking import twin
from .synapses import Synapses

Pool = Literal["mean", "sum", "max"]
Output = Literal["spikes", "current"]
_LAYER = re.compile(
    r"(?P<channels>\d+)C(?P<kernel>\d+)(p(?P<padding>\d+))?(s(?P<stride>\d+))?"
    r"|P(?P<window>\d+)"
    r"|(?P<recurrent>R?)(?P<width>\d+)"
)
_POOLS: dict[Pool, Callable[[int], nn.Module]] = {
    "mean": lambda size: WindowSum(size, size**-2),
    "sum": WindowSum,
    "max": nn.MaxPool2d,
}


@dataclass(frozen=True)
class Plan:
    """The layers of a network, and which of its neurons are recurrent.

    Attributes:
        ann: the network as one of ReLUs.
        recurrent: places among the neurons, from 0.
    """

    ann: nn.Sequential
    recurrent: tuple[int, ...]


def is_layered(text: str) -> bool:
    """Whether this is meant as a network of layers; ``layered`` says what is wrong with it.

    Example:
        >>> is_layered("32C5-P2-R400"), is_layered("resnet50"), is_layered("400")
        (True, False, True)
    """
    found = [_LAYER.fullmatch(word) for word in text.split("-")]
    # Or one word that no network by name has, as in 32C5-Q2.
    return all(found) or any(one is not None and not one["width"] for one in found)


def layered(
    text: str,
    num_classes: int,
    steps: int,
    input_shape: Sequence[int],
    *,
    neuron: NeuronKind | FirstSpikeNeuron | None = None,
    synapses: Synapses | None = None,
    delays: Delays | None = None,
    pool: Pool | None = None,
    output: Output = "spikes",
    gain: float | Sequence[float] = 1.0,
    own_gain: float | None = None,
    bias: float | None = None,
    grid: Sequence[int] | None = None,
    frames: bool = False,
    raw_pixels: bool = False,
) -> SpikingNetwork:
    """Return the untrained network that its layers' names describe, ready for ``tune``.

    Layers are joined by ``-``, and a linear layer to the classes follows the last:

    | word | layer |
    |---|---|
    | ``32C5`` | 32 channels of 5x5 convolution, neurons; ``p2`` behind pads, ``s2`` strides |
    | ``P2`` | pooling of 2x2 windows side by side; an odd border is dropped |
    | ``400`` | 400 neurons, each connected to all before |
    | ``R400`` | as well, and to each other |

    Args:
        text: the layers.
        num_classes: outputs.
        steps: ``T`` it will be trained at.
        input_shape: ``(C, H, W)`` of an image, or of a frame.
        neuron: kind of neuron, integrate-and-fire by default; those of an ``R400`` are
            ``RefractoryNeuron``. With ``FirstSpikeNeuron`` the earliest spike of a window passes,
            ``steps`` is the horizon, and what concerns steps is refused.
        synapses: filters in front of the neurons.
        delays: axonal delays between the layers.
        pool: mean or sum of a window's spikes, or max; the mean by default.
        output: whether the classes are neurons too, or answer with their currents.
        gain: of the weights as torch draws them, ``U(-1, 1)/√n`` for ``n`` inputs; one for all
            layers, or one each.
        own_gain: of the weights within recurrent layers, likewise drawn; 1 by default.
        bias: that layers start with; without biases by default.
        grid: sides of the grid on which a recurrent layer is wired as a reservoir; each neuron
            to each by default.
        frames: whether each step has an input ``[B, T, C, H, W]`` of its own.
        raw_pixels: take images as they are, from 0 to 1, not scaled as their data set says.

    Raises:
        ModelError: on a word that is no layer, naming it, a layer that does not fit, or gains that
            are not one for each layer.
        SpiketuneError: on recurrence between neurons that cannot have it.

    Example:
        >>> import torch
        >>> snn = layered("8C3-P2-32", 10, 5, (1, 8, 8), synapses=Synapses(tau=3.0))
        >>> list(snn.unroll(torch.rand(2, 1, 8, 8)).shape), snn.report.neurons
        ([5, 2, 10], 3)
    """
    for name, value, kind in (("synapses", synapses, Synapses), ("delays", delays, Delays)):
        if value is not None and not isinstance(value, kind):
            raise ModelError(f"{name}={value!r} is no {kind.__name__}; give {kind.__name__}(...)")
    if isinstance(neuron, FirstSpikeNeuron):
        given = {
            "synapses": synapses, "delays": delays, "own_gain": own_gain, "bias": bias, "grid": grid
        }  # fmt: skip
        named = [name for name, value in given.items() if value is not None]
        named += ["frames"] * frames + [f"pool={pool!r}"] * (pool not in (None, "max"))
        return _timed(
            text, num_classes, steps, input_shape,
            neuron=neuron, gain=gain, refused=named + ["output='current'"] * (output != "spikes"),
        )  # fmt: skip
    plan = planned(text, num_classes, input_shape, pool=pool or "mean", output=output, bias=bias)
    scale(plan.ann, gain)
    snn = twin(plan.ann, steps, tuple(input_shape), neuron=neuron, label=text)
    if synapses is not None:
        synapses.add(snn)
    if own_gain is not None and not positive(own_gain):
        raise ModelError(f"own_gain must be a number above 0, not {own_gain!r}")
    for place in plan.recurrent:
        wiring = None if grid is None else reservoir(grid)
        add_recurrence(snn, place, wiring=wiring, scale=1.0 if own_gain is None else own_gain)
    of_recurrent = ["grid"] * (grid is not None) + ["own_gain"] * (own_gain is not None)
    if of_recurrent and not plan.recurrent:
        raise ModelError(
            f"{', '.join(of_recurrent)}: {text} has no recurrent layer; write one as R400"
        )
    if delays is not None:
        delays.add(snn)
    if raw_pixels:
        channels = input_shape[0]
        snn.pretrained_cfg.update(mean=[0.0] * channels, std=[1.0] * channels)
    if frames:
        add_frames(snn, steps)
    return snn


def planned(
    text: str,
    num_classes: int,
    input_shape: Sequence[int],
    *,
    pool: Pool = "mean",
    output: Output = "spikes",
    bias: float | None = None,
) -> Plan:
    """Return the layers of a network as modules; see ``layered``.

    Example:
        >>> plan = planned("4C3-P2-R20", 10, (1, 8, 8))
        >>> [type(layer).__name__ for layer in plan.ann if not isinstance(layer, nn.ReLU)]
        ['Conv2d', 'WindowSum', 'Flatten', 'Linear', 'Linear']
        >>> plan.recurrent
        (1,)
    """
    if len(input_shape) != 3:
        raise ModelError(f"an image is (channels, height, width), not {tuple(input_shape)}")
    if num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, not {num_classes}; count the labels")
    if pool not in _POOLS:
        raise ModelError(f"pool is one of {', '.join(_POOLS)}, not {pool!r}")
    if output not in ("spikes", "current"):
        raise ModelError(f"output is spikes or current, not {output!r}")
    if bias is not None and not math.isfinite(bias):
        raise ModelError(f"bias must be a number, not {bias}; None leaves biases out")
    modules: list[nn.Module] = []
    recurrent: list[int] = []
    shape = tuple(input_shape)
    for word in text.split("-"):
        found = _LAYER.fullmatch(word)
        if found is None:
            raise ModelError(
                f"{word!r} in {text!r} is no layer; layers are 32C5, 32C5p2s2, P2, 400 and R400, "
                "with - between them"
            )
        if found["recurrent"]:
            recurrent.append(sum(isinstance(module, nn.ReLU) for module in modules))
        made, shape = _layer(word, found, shape, pool, bias)
        modules += made
    modules += _dense(num_classes, shape, bias)[: None if output == "spikes" else -1]
    return Plan(nn.Sequential(*modules), tuple(recurrent))


def scale(ann: nn.Sequential, gain: float | Sequence[float]) -> None:
    """Multiply first weights by their gains, one for all layers or one each.

    Raises:
        ModelError: if there are as many gains as no layer has, or one is not finite.

    Example:
        >>> layer = nn.Linear(9, 9)
        >>> scale(nn.Sequential(layer), 30)
        >>> layer.weight.abs().max().item() > 1
        True
    """
    weighted = [layer for layer in ann if isinstance(layer, nn.Conv2d | nn.Linear)]
    gains = [gain] * len(weighted) if isinstance(gain, int | float) else list(gain)
    if len(gains) != len(weighted):
        raise ModelError(
            f"gain={gain} for {len(weighted)} layers with weights; give one number, or one each"
        )
    if not all(number(one) and one != 0 for one in gains):
        raise ModelError(f"gain={gain} must be finite numbers other than 0, which leaves no weight")
    for layer, one in zip(weighted, gains, strict=True):
        layer.weight.data.mul_(one)


def _timed(
    text: str, num_classes: int, steps: int, input_shape: Sequence[int], *,
    neuron: FirstSpikeNeuron, gain: float | Sequence[float], refused: list[str],
) -> SpikingNetwork:  # fmt: skip
    """Return the network of layers in which a neuron fires once."""
    channels, *sides = input_shape
    plan = planned(text, num_classes, (channels * (1 + neuron.negative), *sides), pool="max")
    refused = refused + ["R in front of a layer"] * bool(plan.recurrent)
    if refused:
        raise ModelError(
            f"{', '.join(refused)}: neurons that fire once know no steps; leave this out, or take "
            "another neuron"
        )
    if steps != neuron.horizon:
        raise ModelError(
            f"steps={steps}, but the network's times end at {neuron.horizon}; give "
            f"steps={neuron.horizon}, or FirstSpikeNeuron(horizon={steps})"
        )
    scale(plan.ann, gain)
    snn = neuron.network(plan.ann, tuple(input_shape))
    snn.about["method"] = f"direct {text}"
    return snn


def _layer(
    word: str, found: re.Match[str], shape: tuple[int, ...], pool: Pool, bias: float | None
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Return what a word stands for, and the shape of what leaves it."""
    if found["width"]:
        width = int(found["width"])
        if width < 1:
            raise ModelError(f"{word!r} is a layer without neurons")
        return _dense(width, shape, bias), (width,)
    if len(shape) == 1:
        raise ModelError(f"{word!r} needs a map to look at; put it before the flat layers")
    if found["window"]:
        size, step, padding = int(found["window"]), int(found["window"]), 0
        if size < 2:
            raise ModelError(f"{word!r} pools nothing; windows are at least 2 wide")
    else:
        size, step = int(found["kernel"]), int(found["stride"] or 1)
        padding = int(found["padding"] or 0)
        if not (size and step and int(found["channels"])):
            raise ModelError(f"{word!r} has a size of 0; channels, kernel and stride are above 0")
    sides = tuple((side + 2 * padding - size) // step + 1 for side in shape[1:])
    if min(sides) < 1:
        raise ModelError(f"{word!r} does not fit on a map of {shape[1]} x {shape[2]}")
    if found["window"]:
        return [_POOLS[pool](size)], (shape[0], *sides)
    channels = int(found["channels"])
    conv = nn.Conv2d(shape[0], channels, size, step, padding, bias=bias is not None)
    return [_started(conv, bias), nn.ReLU()], (channels, *sides)


def _dense(width: int, shape: tuple[int, ...], bias: float | None) -> list[nn.Module]:
    flat: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    linear = nn.Linear(math.prod(shape), width, bias=bias is not None)
    return [*flat, _started(linear, bias), nn.ReLU()]


def _started(layer: nn.Conv2d | nn.Linear, bias: float | None) -> nn.Module:
    value: Tensor | None = layer.bias
    if value is not None and bias is not None:
        nn.init.constant_(value, bias)
    return layer
