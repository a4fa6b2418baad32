"""Surrogate gain calibration: the gradient keeps its norm through depth.

A spiking layer multiplies the gradient's norm by a gain ``G``. Behind BatchNorm (γ = 1, β = 0) on
independent inputs of rate ``p``, with membrane ``u`` and slope ``h``, it is

    ``‖∂L/∂s_(l-1)‖² = G² ‖∂L/∂s_l‖²``,  ``G² = E[h(u)²] K / (p (1 - p))``,

``K = 1`` without memory. Over ``n`` layers that makes ``G^n``: 1e-23 in 50 layers of the slope
``SuperSpike(alpha=10)``, whose G is 0.35. So each layer's slope is scaled or widened until, on a
batch of images, it passes on the norm that it receives. Spikes and answers stay as they are.

**Networks that branch.** The neurons whose spikes reach a neuron without another one between are
its feeders. Each neuron's norm is ``√Σ‖v‖²`` over the gradients ``v`` that it receives, one from
each neuron it feeds, and ``√Σ‖v‖²`` over those that it sends to its feeders shall be the same. The
sum of squares over any cut of the network is then that at the loss; in a chain that is
``‖∂L/∂s_(l-1)‖ = ‖∂L/∂s_l‖``. Where there is nothing to compare, for a neuron that only the image
feeds or one beside a BatchNorm that starts at zero (the last of a branch in timm's ResNets), the
slope is turned as far as the others on (geometric) average.

Source: Ledinauskas et al. 2020 (arXiv 2006.04436), who cure gradients that vanish or explode by
tuning the slope. The formula for ``G`` and the calibration of each layer are ours; LSUV (Mishkin &
Matas 2016) does alike with the weights going forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

from torch import Tensor

from spiketune.snn import Scaled, SpikingNetwork, Surrogate

from .errors import TuneError
from .gradient_flow import Site, Turn, learning, require_slopes, sites, square

_TRIES = 30
_FARTHEST = math.log(1e6)  # how far a slope is turned before the search gives up


def calibrate_gain(
    snn: SpikingNetwork,
    images: Tensor,
    *,
    steps: int,
    surrogate: Surrogate | None = None,
    detach_reset: bool = True,
    by: Literal["gain", "width"] = "gain",
    target: float = 1.0,
    tolerance: float = 0.05,
    seed: int = 0,
) -> dict[str, Surrogate]:
    """Set the slope of every neuron so that the gradient's norm changes by ``target`` a layer.

    Works in place, from the last layer to the first, on one forward pass whose gradient comes from
    random answers; BatchNorm takes the batch's statistics, as in training, and its running ones
    stay. Train afterwards with ``SurrogateBPTT(surrogate=None)``, which leaves the slopes, and the
    same ``detach_reset``. Calibrate again if weights or thresholds have changed much.

    Args:
        snn: rate-coded (its image acts at every step), not folded.
        images: one batch ``[B, C, H, W]`` as in training; memory grows with it and with ``steps``.
        steps: ``T`` of the training to come.
        surrogate: slope to start from in every layer; each neuron's own by default.
        detach_reset: leave the reset out of the gradient, as the rule will.
        by: scale the slope by a ``gain``, which finds one always, or change its ``width``.
        target: norm sent over norm received.
        tolerance: how far off, relative to ``target``, a layer may stay; errors do not add up.
        seed: of the random answers.

    Returns:
        The slope of each neuron by name.

    Raises:
        TuneError: if no gradient comes through a layer, if no width brings it to the target, or if
            the network cannot be trained by surrogate slopes; all slopes stay as they were then.

    Example:
        >>> import spiketune as st, torch
        >>> from spiketune.snn import SuperSpike
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> x = torch.rand(8, 1, 32, 32)
        >>> slopes = calibrate_gain(snn, x, steps=4, surrogate=SuperSpike(alpha=10.0))
        >>> norms = st.gradient_norms(snn, x, steps=4)
        >>> round(norms["conv1_2_relu"] / norms["layer4_0_act2_relu"], 1)
        1.0
    """
    _check(target=target, tolerance=tolerance, by=by)
    require_slopes(snn)
    with _firing_kept_on_error(snn):
        for _, neuron in snn.neurons():
            slope = surrogate or neuron.firing.surrogate
            neuron.firing = replace(neuron.firing, surrogate=slope, detach_reset=detach_reset)
        with learning(snn):
            found = sites(snn, images, steps, seed)
            if not any(site.wanted for site in found):
                raise TuneError("no neuron gets a gradient from the answer; check the last layers")
            factors = [
                _calibrate(found[: count + 1], _TURNS[by], target, tolerance)
                for count in reversed(range(len(found)))
            ][::-1]
        turned = [math.log(factor) for factor in factors if factor is not None]
        common = math.exp(sum(turned) / len(turned)) if turned else 1.0
        for site, factor in zip(found, factors, strict=True):
            if factor is None:
                site.turn(_TURNS[by], common)
    return {site.name: site.neuron.firing.surrogate for site in found}


@contextmanager
def _firing_kept_on_error(snn: SpikingNetwork) -> Iterator[None]:
    """Put every slope back if not all of them are found."""
    before = [(neuron, neuron.firing) for _, neuron in snn.neurons()]
    try:
        yield
    except BaseException:
        for neuron, firing in before:
            neuron.firing = firing
        raise


def _calibrate(until: list[Site], turn: Turn, target: float, tolerance: float) -> float | None:
    """Turn the slope of the last site until it sends on what it received; None if to nothing."""
    *feeders, site = until
    wanted = target * math.sqrt(site.wanted)
    if wanted == 0:
        return None
    parts: Sequence[Tensor | None] = ()

    def sent(factor: float) -> float:
        nonlocal parts
        site.turn(turn, factor)
        parts = site.send(feeders)
        return math.sqrt(sum(square(part) for part in parts if part is not None))

    norm = sent(1.0)
    if norm == 0 and site.passed != 0:
        return None  # only the image feeds it, or weights that are zero
    if not 0 < norm < math.inf:
        raise TuneError(
            f"{site.name}: no gradient comes through it, for its membranes never come near the "
            "slope; start from a wider one, such as SuperSpike(alpha=1)"
        )
    factor = _solve(lambda x: sent(x) / wanted, norm / wanted, tolerance)
    if factor is None:
        raise TuneError(
            f"{site.name}: no width of {site.base} makes it send on the gradient it receives, or "
            'its gradient does not follow its slope; calibrate by="gain", start from a slope of '
            "another width, or leave this kind of neuron as it is"
        )
    share = wanted / math.sqrt(sum(square(part) for part in parts if part is not None))
    for feeder, part in zip(feeders, parts, strict=True):
        feeder.receive(part, share)
    del site.current, site.received  # the memory of the layer
    return factor


def _solve(ratio: Callable[[float], float], first: float, tolerance: float) -> float | None:
    """Find where ``ratio(x) = 1`` by secants on logarithms, from ``ratio(1) = first``."""
    x, y, rise = 0.0, math.log(first), 1.0  # a gain needs one step
    for _ in range(_TRIES):
        if abs(math.expm1(y)) <= tolerance:
            return math.exp(x)
        step = max(-math.log(8), min(math.log(8), -y / rise))
        if abs(x + step) > _FARTHEST:
            return None
        after = ratio(math.exp(x + step))
        if after == 0:
            return None
        x, y, rise = x + step, math.log(after), (math.log(after) - y) / step
        if rise == 0:
            return None
    return None


def _scaled(slope: Surrogate, factor: float) -> Surrogate:
    if isinstance(slope, Scaled):
        return replace(slope, gain=slope.gain * factor)
    return Scaled(surrogate=slope, gain=factor)


def _widened(slope: Any, factor: float) -> Surrogate:
    """Return a slope with its width, or with ``1/α``, times a factor."""
    names = {field.name for field in fields(slope)} if is_dataclass(slope) else set()
    if isinstance(slope, Scaled):
        return replace(slope, surrogate=_widened(slope.surrogate, factor))
    if "width" in names:
        wider: Surrogate = replace(slope, width=slope.width * factor)
    elif "alpha" in names:
        wider = replace(slope, alpha=slope.alpha / factor)
    else:
        raise TuneError(f'{slope} has no width to change; calibrate by="gain"')
    return wider


_TURNS: dict[str, Turn] = {"gain": _scaled, "width": _widened}


def _check(*, target: float, tolerance: float, by: str) -> None:
    checks = {
        "target": (0 < target < math.inf, "above 0", target),
        "tolerance": (0 < tolerance < 1, "between 0 and 1", tolerance),
        "by": (by in _TURNS, " or ".join(_TURNS), by),
    }
    for name, (good, allowed, value) in checks.items():
        if not good:
            raise TuneError(f"{name} must be {allowed}, not {value!r}")
