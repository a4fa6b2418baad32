"""Arithmetic of potentials, and the exact change of a loss that NA's gradient approximates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spiketune.finetune.aggregation import Cell, Reach, later_errors, na_gradient
from spiketune.finetune.neighbours import (
    add,
    aggregate,
    currents_of,
    distance,
    exact_change,
    simple_neighbours,
    subtract,
)
from spiketune.snn import Firing, HardReset, SoftReset, Synapse

HARD = Firing(reset=HardReset(), strict=True)
SOFT = Firing(reset=SoftReset())


def drawn(*shape: int, seed: int) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make, dtype=torch.float64)


def cell(firing: Firing) -> Cell:
    one = torch.tensor(1.0, dtype=torch.float64)
    return Cell(one, 0.8 * one, firing)


def potential(firing: Firing, steps: int, seed: int) -> tuple[Cell, Tensor, Tensor]:
    start = torch.zeros(60, dtype=torch.float64)
    made = cell(firing)
    charged, _, _ = made.run(0.3 + 0.6 * drawn(steps, 60, seed=seed), start)
    return made, torch.stack(charged), start


@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_adding_undoes_subtracting(firing: Firing) -> None:
    made, u, start = potential(firing, 9, seed=0)
    other = u + drawn(9, 60, seed=1)
    change = drawn(9, 60, seed=2)
    tight = {"rtol": 0.0, "atol": 1e-12}
    torch.testing.assert_close(add(made, u, subtract(made, other, u, start), start), other, **tight)
    torch.testing.assert_close(
        subtract(made, add(made, u, change, start), u, start), change, **tight
    )
    again, _, _ = made.run(currents_of(made, u, start), start)
    torch.testing.assert_close(torch.stack(again), u, **tight)


@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_a_simple_neighbour_differs_by_a_current_in_one_step(firing: Firing) -> None:
    made, u, start = potential(firing, 6, seed=3)
    for k, other in enumerate(simple_neighbours(made, u, start)):
        change = subtract(made, other, u, start)
        assert float(change[torch.arange(6) != k].abs().max()) < 1e-12
        room = (1 - u[k]).abs()
        torch.testing.assert_close(distance(made, other, u, start), room, rtol=0, atol=1e-5)
        assert bool((made.fires(other[k]) ^ made.fires(u[k])).all())


@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_a_quadratic_loss_changes_as_brute_force_says(firing: Firing) -> None:
    made, u, start = potential(firing, 6, seed=4)
    target = Synapse(tau=2.0)((drawn(6, 60, seed=5) > 0).double())[0]

    def sent(waveform: Tensor) -> Tensor:
        return Synapse(tau=2.0)(made.fires(waveform).double())[0]

    def loss(filtered: Tensor) -> Tensor:
        return (filtered - target).square().sum(0) / 2

    g = sent(u) - target
    found = []
    for other in simple_neighbours(made, u, start):
        change = sent(other) - sent(u)
        exact = loss(sent(other)) - loss(sent(u))
        torch.testing.assert_close(exact_change(g, change), exact, rtol=0, atol=1e-12)
        found.append((g * change).sum(0))
    # The rule sees the error behind the synapse, at the spikes.
    current, at_spikes = currents_of(made, u, start), later_errors(g, 0.5) / 2
    gradient = na_gradient(
        current, at_spikes, start, *made[:2], firing=firing, reach=Reach(clip=1e9)
    )
    torch.testing.assert_close(gradient * (1 - u), torch.stack(found), rtol=0, atol=1e-8)


def test_neighbours_of_any_kind_recover_a_linear_functional() -> None:
    made, u, start = potential(HARD, 5, seed=6)
    wanted = drawn(60, 5, seed=7)
    changes = [drawn(5, 60, seed=10 + p) for p in range(8)]
    steps = [subtract(made, add(made, u, change, start), u, start) for change in changes]
    sizes = torch.stack([step.norm(dim=0) for step in steps], dim=-1)
    directions = torch.stack([step.T for step in steps], dim=-2) / sizes.unsqueeze(-1)
    slopes = torch.stack([(wanted * step.T).sum(-1) for step in steps], dim=-1) / sizes
    torch.testing.assert_close(aggregate(directions, slopes), wanted, rtol=1e-9, atol=1e-9)


def test_the_simple_neighbourhood_is_a_case_of_the_general_one() -> None:
    made, u, start = potential(HARD, 4, seed=8)
    error = drawn(4, 60, seed=9)
    others = simple_neighbours(made, u, start, beyond=1e-9)
    spikes, flipped = made.fires(u).double(), made.fires(others).double()
    steps = torch.stack([subtract(made, other, u, start) for other in others])
    sizes = steps.norm(dim=1)
    slopes = (error * (flipped - spikes)).sum(1) / sizes
    directions = (steps / sizes.unsqueeze(1)).permute(2, 0, 1)
    found = aggregate(directions, slopes.T).T
    expected = na_gradient(
        currents_of(made, u, start), error, start, *made[:2], firing=HARD, reach=Reach(clip=1e9)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
