"""Arithmetic of membrane potentials, and gradients from neighbours of any kind.

A potential waveform ``u [T, ...]`` and its current say the same: ``c[t] = u[t] - λ m[t-1]``, the
membrane ``m`` after the reset known from ``u``. Potentials are added and subtracted by way of
their currents, and the distance of two is the size of the current that turns one into the other.
``aggregation`` holds the case that rules use, the simple neighbourhood, without these detours.

Source: Yang, Zhang & Li 2021 (NA, ICML), algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .aggregation import Cell


def currents_of(cell: Cell, potential: Tensor, membrane: Tensor) -> Tensor:
    """Return ``c[t] = u[t] - λ m[t-1]``, all ``[T, ...]``; ``m[0]`` is ``membrane [...]``.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> currents_of(cell, torch.tensor([0.75, 1.5]), torch.tensor(0.0))
        tensor([0.7500, 0.7500])
    """
    found = []
    for u in potential.unbind(0):
        found.append(u - cell.charge(membrane, torch.zeros_like(u)))
        membrane = cell.reset(u, cell.fires(u))
    return torch.stack(found)


def add(cell: Cell, potential: Tensor, change: Tensor, membrane: Tensor) -> Tensor:
    """Return ``u ⊕ ε``: the potentials of the current of ``u`` with ``ε`` added, ``[T, ...]``.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> u, change = torch.tensor([0.75, 1.5]), torch.tensor([0.5, 0.0])
        >>> add(cell, u, change, torch.tensor(0.0))  # 1.25 fires and leaves 0.25
        tensor([1.2500, 1.0000])
    """
    charged, _, _ = cell.run(currents_of(cell, potential, membrane) + change, membrane)
    return torch.stack(charged)


def subtract(cell: Cell, other: Tensor, potential: Tensor, membrane: Tensor) -> Tensor:
    """Return ``u' ⊖ u``: the current ``[T, ...]`` that turns ``u`` into ``u'`` when added.

    A reset of ``u'`` is followed, not paid for again.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> other, u = torch.tensor([1.25, 1.0]), torch.tensor([0.75, 1.5])
        >>> subtract(cell, other, u, torch.tensor(0.0))
        tensor([0.5000, 0.0000])
    """
    return currents_of(cell, other, membrane) - currents_of(cell, potential, membrane)


def distance(cell: Cell, other: Tensor, potential: Tensor, membrane: Tensor) -> Tensor:
    """Return ``‖u' ⊖ u‖``, the Euclidean norm over the steps, ``[...]``.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> other, u = torch.tensor([1.25, 1.0]), torch.tensor([0.75, 1.5])
        >>> distance(cell, other, u, torch.tensor(0.0)).item()
        0.5
    """
    change = subtract(cell, other, potential, membrane)
    size: Tensor = torch.linalg.vector_norm(change, dim=0)
    return size


def simple_neighbours(
    cell: Cell, potential: Tensor, membrane: Tensor, *, beyond: float = 1e-6
) -> Tensor:
    """Return the potentials ``[T, T, ...]`` of all neighbours, neighbour ``k`` flipped in step k.

    Args:
        cell: of the neurons.
        potential: ``u [T, ...]``.
        membrane: before the first step, ``[...]``.
        beyond: how far behind the threshold the flip ends, in thresholds.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> u = torch.tensor([0.75, 1.5])
        >>> simple_neighbours(cell, u, torch.tensor(0.0), beyond=0.0)
        tensor([[1.0000, 0.7500],
                [0.7500, 1.0000]])
    """
    found = []
    for k in range(len(potential)):
        past = beyond * cell.threshold
        change = torch.zeros_like(potential)
        change[k] = cell.threshold - potential[k]
        change[k] += torch.where(cell.fires(potential[k]), -past, past)
        found.append(add(cell, potential, change, membrane))
    return torch.stack(found)


def aggregate(directions: Tensor, slopes: Tensor) -> Tensor:
    """Return ``O⁺ f``: the gradient ``[..., T]`` that best explains the slopes of neighbours.

    Args:
        directions: ``O [..., M, T]``, unit vectors ``(u_p ⊖ u)/‖u_p ⊖ u‖``.
        slopes: ``f [..., M]``, what each neighbour changes for its distance.

    Example:
        >>> aggregate(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([2.0, 3.6]))
        tensor([2.0000, 3.0000])
    """
    inverse: Tensor = torch.linalg.pinv(directions)
    return (inverse @ slopes.unsqueeze(-1)).squeeze(-1)


def exact_change(error: Tensor, change: Tensor) -> Tensor:
    """Return ``g·Δa + ½ |Δa|²`` over the steps: what a quadratic loss changes by, exactly.

    It holds for ``L = ½ Σ_t (a[t] - ā[t])²`` of the outputs ``a`` of the last neurons themselves;
    ``NA(error="exact")`` asks any loss.

    Args:
        error: ``g = a - ā``, ``[T, ...]``.
        change: ``Δa [T, ...]``, of the filtered spikes.

    Example:
        >>> exact_change(torch.tensor([0.5, 0.0]), torch.tensor([-1.0, 0.0]))
        tensor(0.)
    """
    return (error * change + change.square() / 2).sum(0)


def neighbour_trains(cell: Cell, current: Tensor, membrane: Tensor) -> Iterator[Tensor]:
    """Yield the spikes ``[T, ...]``, False or True, of each neighbour, ``k`` flipped in step k.

    Args:
        cell: of the neurons.
        current: ``c [T, ...]``.
        membrane: before the first step, ``[...]``.

    Example:
        >>> from spiketune.snn import Firing
        >>> cell = Cell(torch.tensor(1.0), None, Firing())
        >>> trains = neighbour_trains(cell, torch.tensor([0.75, 0.75]), torch.tensor(0.0))
        >>> [train.int().tolist() for train in trains]
        [[1, 0], [0, 0]]
    """
    _, fired, _ = cell.run(current, membrane)
    for k, now in enumerate(fired):
        other, train = cell.flipped(now), [*fired[:k], ~now]
        for arriving in current[k + 1 :].unbind(0):
            lifted = cell.charge(other, arriving)
            train.append(cell.fires(lifted))
            other = cell.reset(lifted, train[-1])
        yield torch.stack(train)
