"""Neighbourhood aggregation of one layer: from errors at the spikes to gradients of the current.

The spike train of a neuron has ``T`` neighbours. Neighbour ``k`` fires in step ``k`` where the
neuron is silent, and is silent where it fires: its potential is ``θ`` there, and all later steps
follow from the same currents. With ``u[t] = λ m[t-1] + c[t]``, spikes ``s`` and neighbours ``sᵏ``

    ``δ[k] = Σ_{t>=k} e[t] (sᵏ[t] - s[t]) / (θ - u[k])``

so a finite difference: what the flip changes, for the current that it takes to flip.

Source: Yang, Zhang & Li 2021 (NA, ICML), algorithms 1 and 2, simple neighbourhood selection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spiketune.snn import Firing, HardReset


@dataclass(frozen=True, kw_only=True)
class Reach:
    """``1/dᵖ`` of the distance ``d`` to the threshold, at most ``clip``; ``d`` in thresholds.

    Attributes:
        power: ``p``, 1 or, as in the authors' program, 3.
        clip: largest value.

    Example:
        >>> Reach()(torch.tensor([0.5, 0.0, -0.2]), torch.tensor([False, False, True]))
        tensor([ 2., 10., -5.])
    """

    power: int = 1
    clip: float = 10.0

    def __call__(self, distance: Tensor, fired: Tensor) -> Tensor:
        """Return ``±1/|d|ᵖ``, positive where the neuron is silent.

        Args:
            distance: ``1 - u/θ``.
            fired: whether the neuron does; it alone tells the side of a potential at the threshold.
        """
        # Bounded from below before it is divided by: a zero never becomes an infinity.
        near = (distance.abs() ** self.power).clamp_min(1 / self.clip)
        return 1 / torch.where(fired, -near, near)


class Cell(NamedTuple):
    """One step of an IF or LIF neuron, with the operations of its own steps, spikes as booleans.

    Attributes:
        threshold: ``θ``, broadcastable to the membrane.
        leak: ``λ``, None for 1.
        firing: reset and comparison.

    Example:
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> cell.reset(torch.tensor(1.5), cell.fires(torch.tensor(1.5)))
        tensor(0.5000)
    """

    threshold: Tensor
    leak: Tensor | None
    firing: Firing

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        """Return ``u = λ m + c``."""
        return (membrane if self.leak is None else self.leak * membrane) + current

    def fires(self, charged: Tensor) -> Tensor:
        """Return whether ``u/θ`` reaches 1, or exceeds it."""
        relative = charged / self.threshold
        return relative > 1 if self.firing.strict else relative >= 1

    def reset(self, charged: Tensor, fired: Tensor) -> Tensor:
        """Return the membrane after the step."""
        return torch.where(fired, self._after_spike(charged), charged)

    def flipped(self, fired: Tensor) -> Tensor:
        """Return the membrane after a step in which the neuron did the contrary, ``u = θ``."""
        return torch.where(fired, self.threshold, self._after_spike(self.threshold))

    def run(
        self, current: Tensor, membrane: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return potentials, spikes and membranes after each step of ``current [T, ...]``."""
        charged, fired, after = [], [], [membrane]
        for arriving in current.unbind(0):
            charged.append(self.charge(after[-1], arriving))
            fired.append(self.fires(charged[-1]))
            after.append(self.reset(charged[-1], fired[-1]))
        return charged, fired, after[1:]

    def at(self, place: Tensor) -> Cell:
        """Return the cells at some places, where thresholds and leaks are ``[N]``."""
        leak = None if self.leak is None else self.leak[place]
        return self._replace(threshold=self.threshold[place], leak=leak)

    def _after_spike(self, charged: Tensor) -> Tensor | float:
        reset = self.firing.reset
        return reset.to if isinstance(reset, HardReset) else charged - self.threshold


def later_errors(error: Tensor, decay: float) -> Tensor:
    """Return ``e[t] = g[t] + r e[t+1]``.

    Args:
        error: ``g [T, ...]``.
        decay: ``r``.

    Example:
        >>> later_errors(torch.tensor([-0.5, 0.25, 0.125, 0.0625]), 0.5).tolist()
        [-0.3359375, 0.328125, 0.15625, 0.0625]
    """
    found = list(error.unbind(0))
    for t in reversed(range(len(found) - 1)):
        found[t] = found[t] + decay * found[t + 1]
    return torch.stack(found)


def na_gradient(
    current: Tensor,
    error: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    leak: Tensor | None,
    last: Tensor | None = None,
    *,
    firing: Firing,
    reach: Reach,
    decay: float = 0.0,
) -> Tensor:
    """Return ``δ [T, ...]``, the gradient at the current of IF or LIF neurons.

    Membranes and spikes are computed again, with the operations of the neuron's own steps. Plain
    loops over steps and flips, nothing in place, no branch on a value: ready to be traced.

    Args:
        current: ``c [T, ...]``.
        error: ``[T, ...]`` at the output ``θ s``, so that ``θ`` cancels.
        membrane: before the first step, ``[...]``.
        threshold: ``θ``, broadcastable to the membrane.
        leak: ``λ``, None for 1.
        last: gradient at the membrane after the last step; None for zeros.
        firing: reset and comparison.
        reach: what ``1/(θ - u)`` is taken for.
        decay: ``r`` of the recursion of ``later_errors``; 0 leaves the error as it is.

    Example:
        >>> from spiketune.snn import HardReset
        >>> firing = Firing(reset=HardReset(), strict=True)
        >>> current, one = torch.tensor([0.6, 0.7, 0.2, 0.9]).view(4, 1), torch.tensor(1.0)
        >>> error = torch.tensor([-0.2, 0.1, 0.1, 0.0]).view(4, 1)
        >>> na_gradient(
        ...     current, error, torch.zeros(1), one, 0.8 * one, firing=firing, reach=Reach()
        ... ).flatten()
        tensor([-0.7500,  0.5556,  0.1250,  0.0000])
    """
    if decay:
        error = later_errors(error, decay)
    cell = Cell(threshold, leak, firing)
    now, end = current.unbind(0), len(current)
    charged, fired, after = cell.run(current, membrane)
    # What it changes if the spike of a step comes or goes.
    changes = [torch.where(s, -e, e) for s, e in zip(fired, error, strict=True)]
    found = []
    for k in range(end):
        other, change = cell.flipped(fired[k]), changes[k]
        for t in range(k + 1, end):
            lifted = cell.charge(other, now[t])
            fires = cell.fires(lifted)
            other = cell.reset(lifted, fires)
            change = change + torch.where(fires != fired[t], changes[t], 0.0)
        if last is not None:
            change = change + last * (other - after[-1])
        found.append(change * reach(1 - charged[k] / threshold, fired[k]))
    return torch.stack(found)


def sparse_na_gradient(
    current: Tensor,
    error: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    leak: Tensor | None,
    last: Tensor | None = None,
    *,
    firing: Firing,
    reach: Reach,
    decay: float = 0.0,
) -> Tensor:
    """Return what ``na_gradient`` does, following a neighbour only as long as it differs.

    After a hard reset in the same step a neighbour is the neuron again: chains are a few steps long
    however long the run, and the work grows with ``T`` instead of ``T²``. Soft resets forget
    nothing, and gain nothing here.

    Example:
        >>> one = torch.tensor(1.0)
        >>> sparse_na_gradient(
        ...     torch.tensor([[0.6], [0.7]]), torch.ones(2, 1), torch.zeros(1), one, None,
        ...     firing=Firing(), reach=Reach(),
        ... ).flatten()
        tensor([0.0000, 3.3333])
    """
    if decay:
        error = later_errors(error, decay)
    steps, shape = len(current), current.shape[1:]
    now, begin = current.flatten(1), membrane.expand(shape).flatten()
    leaks = None if leak is None else leak.expand(shape).flatten()
    cell = Cell(threshold.expand(shape).flatten(), leaks, firing)
    charged, fired, after = map(torch.stack, cell.run(now, begin))
    changes = torch.where(fired, -error.flatten(1), error.flatten(1))
    found, every = changes.clone(), torch.arange(now.shape[1], device=now.device)
    # One pair of a flip and a place for each neighbour that still differs, and its membrane.
    flip, place, other = every[:0], every[:0], now[0, :0]
    for t in range(steps):
        near = cell.at(place)
        lifted = near.charge(other, now[t, place])
        fires = near.fires(lifted)
        other = near.reset(lifted, fires)
        found[flip, place] += torch.where(fires != fired[t, place], changes[t, place], 0.0)
        kept = other != after[t, place]
        flip = torch.cat([flip[kept], torch.full_like(every, t)])
        place = torch.cat([place[kept], every])
        other = torch.cat([other[kept], cell.flipped(fired[t])])
    if last is not None:
        found[flip, place] += last.expand(shape).flatten()[place] * (other - after[-1, place])
    distance = 1 - charged / cell.threshold
    return (found * reach(distance, fired)).view(steps, *shape)
