"""When membranes first reach their threshold, and the gradient of that, in torch's operations.

The reference of ``compiled``, and what runs on other devices. Events are sorted for every place of
a layer; sums over the first of them give slope and membrane between events; the first stretch at
whose end the membrane has reached the threshold holds the crossing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry import Geometry
from .psp import PSP

# Values at once: a few tensors of this size are in memory, whatever the batch.
PIECE = 2**23


class Crossings(NamedTuple):
    """What became of the neurons ``[B, K, H, W]`` of a layer.

    Attributes:
        times: of the spike, the horizon where there was none.
        slopes: of the membrane at that time.
        membranes: at the horizon; of no meaning where the neuron has fired before it.
    """

    times: Tensor
    slopes: Tensor
    membranes: Tensor


class Shares(NamedTuple):
    """What each neuron's gradient ``[B, K, H, W]`` is multiplied with, on the two ways back.

    Attributes:
        weights: on the way to its weights, where ``value`` is what the other factor is taken from.
        times: on the way to the spikes before it, with ``slope``.
        value: ``E``, of the time between the two spikes.
        slope: ``D``, likewise.
    """

    weights: Tensor
    times: Tensor
    value: PSP
    slope: PSP


def cross(
    times: Tensor, weight: Tensor, geometry: Geometry, psp: PSP, *, threshold: float, horizon: float
) -> Crossings:
    """Return when ``V_j(t) = Σ_i w_ji ε(t - t_i)`` first reaches the threshold.

    Args:
        times: ``t_i [B, C, H, W]``; at the horizon and behind it there is no spike.
        weight: ``w [K, C, h, w]``.
        geometry: where they lie.
        psp: ``ε``.
        threshold: ``θ``.
        horizon: the end of time.
    """
    patches = geometry.patches(times, horizon).flatten(0, 1)
    each = len(psp.knots) * weight.numel()
    found = [
        _cross(piece, weight.flatten(1), psp, threshold, horizon)
        for piece in torch.split(patches, max(1, PIECE // each))
    ]
    shape = (len(times), *geometry.places, len(weight))
    return Crossings(
        *(torch.cat(part).view(shape).movedim(-1, 1) for part in zip(*found, strict=True))
    )


def _cross(
    patches: Tensor, weight: Tensor, psp: PSP, threshold: float, horizon: float
) -> Crossings:
    """Return the crossings ``[M, K]`` of patches ``[M, N]``."""
    knots = psp.knots
    events, order = torch.cat([patches + knot.at for knot in knots], dim=1).sort(dim=1)
    # Only what comes in time; one event at least, so that there is a place to look at.
    last = max(1, int((events < horizon).any(0).sum()))
    events, order = events[:, :last].clamp_max(horizon), order[:, :last]
    length = torch.cat([events[:, 1:], events.new_full((len(events), 1), horizon)], 1) - events
    alive = events < horizon

    def of(factors: list[float]) -> Tensor:
        rows = torch.cat([factor * weight.T for factor in factors])
        return rows[order] * alive.unsqueeze(-1)

    slopes = of([knot.bend for knot in knots]).cumsum(1)
    rises = slopes * length.unsqueeze(-1)
    jumps = of([knot.jump for knot in knots]) if any(knot.jump for knot in knots) else 0.0
    ends = (rises + jumps).cumsum(1)
    starts = ends - rises
    # Not between events at one time: what they come to together counts.
    reached = (torch.maximum(starts, ends) >= threshold) & (length > 0).unsqueeze(-1)
    first = reached.to(torch.uint8).argmax(1, keepdim=True)
    start, slope = starts.gather(1, first).squeeze(1), slopes.gather(1, first).squeeze(1)
    begun = events.gather(1, first.squeeze(1))
    wait = torch.where(start >= threshold, 0.0, (threshold - start) / slope)
    fired = reached.any(1)
    at = torch.where(fired, begun + wait, horizon).clamp_max(horizon)
    return Crossings(at, torch.where(fired, slope, 0.0), ends[:, -1])


def credit(
    times: Tensor,
    weight: Tensor,
    geometry: Geometry,
    fired: Tensor,
    shares: Shares,
    *,
    horizon: float,
    to_times: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return ``Σ a_j E(t_j - t_i)`` over places for each weight, and ``Σ_j b_j w_ji D(t_j - t_i)``.

    Args:
        times: ``t_i [B, C, H, W]``.
        weight: ``w [K, C, h, w]``.
        geometry: where they lie.
        fired: ``t_j [B, K, H', W']``.
        shares: ``a``, ``b``, ``E`` and ``D``.
        horizon: no spike comes there, and none gets anything.
        to_times: whether the second one is wanted.
    """
    patches = geometry.patches(times, horizon)
    rows, own = patches.flatten(0, 1), weight.flatten(1)
    to_weight, passed = torch.zeros_like(own), torch.zeros_like(rows)
    flat = [one.flatten(2).transpose(1, 2).flatten(0, 1) for one in (fired, *shares[:2])]
    for piece in _pieces(len(rows), max(1, PIECE // weight.numel())):
        seen, (at, to_w, to_t) = rows[piece], (one[piece] for one in flat)
        since = at.unsqueeze(-1) - seen.unsqueeze(1)
        since = torch.where(seen.unsqueeze(1) < horizon, since, -1.0)
        to_weight += torch.einsum("mk,mkn->kn", to_w, shares.value.value(since))
        if to_times:
            slope = shares.slope.value(since)
            passed[piece] = torch.einsum("mk,mkn,kn->mn", to_t, slope, own)
    back = geometry.gathered(passed.view_as(patches)) if to_times else None
    return to_weight.view_as(weight), back


def _pieces(total: int, size: int) -> Iterator[slice]:
    for first in range(0, total, size):
        yield slice(first, first + size)
