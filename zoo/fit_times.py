"""Start weights from which neurons of exact spike times fire, at times that can be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spiketune.snn import SpikingNetwork, Timed, race_of, spike_times_of, timed_layers
from spiketune.snn.checks import positive, whole

from .errors import ModelError

# Halvings of a range: a share of it of 2^-9 is left.
_HALVINGS = 9


def fit_times(
    snn: SpikingNetwork,
    images: Tensor,
    *,
    share: float = 0.8,
    last: float = 0.99,
    at: float = 0.5,
    limit: int = 32,
) -> None:
    """Shift and scale the weights of each layer, the first one first.

    ``w <- f (w + m)``: ``m`` such that ``share`` of the neurons fire, of those that any spike
    reaches, and ``f`` such that half of these have fired ``at`` so much of the time between the
    layer's first input and the horizon. ``m`` is tried from -1 to 4 root mean squares of ``w``,
    ``f`` from 1e-4 to 1e4. Binary weights get ``m``, their scale ``f``. What cannot be had is
    approached.

    Args:
        snn: an untrained network of exact spike times; changed in place.
        images: ``[N, C, H, W]``, some training images.
        share: of the neurons of all layers but the last.
        last: of those of the last layer, whose times lie the closer the more of them fire.
        at: of the time.
        limit: images looked at.

    Raises:
        ModelError: on shares outside 0 to 1, no images to look at, or none with a spike.
        SpiketuneError: if the network is none of spike times, or the images do not fit it.

    Source: our own, after the layer-wise scaling of Mishkin & Matas 2016 (LSUV).

    Example:
        >>> import spiketune as st
        >>> layers = [torch.nn.Linear(16, 32, bias=False), torch.nn.Linear(32, 3, bias=False)]
        >>> snn = st.single_spike(layers, (16,))
        >>> fit_times(snn, torch.rand(20, 16), share=0.6)
        >>> fired = st.spike_times_of(snn, torch.rand(20, 16)).fired["linear1"] < snn.steps
        >>> 0.4 < fired.float().mean() < 0.8
        tensor(True)
    """
    for name, value in (("share", share), ("last", last), ("at", at)):
        if not positive(value) or value >= 1:
            raise ModelError(f"fit_times: {name} must lie between 0 and 1, not {value!r}")
    if not whole(limit) or not len(images):
        raise ModelError(
            f"fit_times: {len(images)} images and limit={limit!r}: at least one must be looked at"
        )
    race_of(snn)
    with torch.no_grad():
        layers = timed_layers(snn)
        for number, (name, layer) in enumerate(layers.items(), start=1):
            arriving = spike_times_of(snn, images[:limit]).arriving[name]
            if not bool((arriving < layer.horizon).any()):
                raise ModelError(
                    f"fit_times: no spike reaches {name} on these {len(images[:limit])} images; "
                    "give brighter ones, or more"
                )
            _fit(layer, arriving, last if number == len(layers) else share, at)


def _fit(layer: Timed, arriving: Tensor, share: float, at: float) -> None:
    start, spread = layer.weight.clone(), layer.weight.square().mean().sqrt()
    reached = layer.reached(arriving)
    first = float(arriving.min())
    wanted = first + at * (layer.horizon - first)

    def times(shift: float, factor: float) -> Tensor:
        layer.set_weight(factor * (start + shift * spread))
        fired = layer(arriving)
        whole = fired.view(*fired.shape[:2], *reached.shape[1:])
        found: Tensor = whole.movedim(1, -1)[reached].flatten()
        return found

    def scaled(shift: float) -> Tensor:
        def late(log: float) -> bool:
            found = times(shift, 10**log)
            return float(found.kthvalue(math.ceil(share / 2 * len(found))).values) > wanted

        return times(shift, 10 ** _halved(late, -4.0, 4.0))

    def few(shift: float) -> bool:
        return float((scaled(shift) < layer.horizon).float().mean()) < share

    scaled(_halved(few, -1.0, 4.0))


def _halved(below: Callable[[float], bool], low: float, high: float) -> float:
    """Return where ``below`` stops being true, between two bounds."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
