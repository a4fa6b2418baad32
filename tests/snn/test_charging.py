"""What a neuron says of its membrane is what its steps do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spiketune.snn import IF, LIF, PLIF, PSN, Burst, Charging, Graded, Neuron, SignedIF
from spiketune.snn.dynamics import Firing, HardReset

ONE = torch.tensor(1.0, dtype=torch.float64)
FIRING = Firing(reset=HardReset(to=-0.2))
CHARGING: list[Callable[[], Charging]] = [
    lambda: IF(ONE),
    lambda: LIF(ONE, leak=0.7),
    lambda: PLIF(ONE, decay=0.3),
    lambda: PLIF(ONE, decay=-0.4, firing=FIRING),
    lambda: LIF(ONE, leak=0.7, firing=FIRING),
]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("make", CHARGING)
@torch.no_grad()
def test_it_fires_at_the_charged_membrane_and_nowhere_else(make: Callable[[], Charging]) -> None:
    neuron, current = make(), 2 * drawn(30, 50)
    state = neuron.start(current)
    spikes = 0.0
    for now in current:
        charged = neuron.charge(state.membrane, now)
        sent, state = neuron.step(now, state)
        assert torch.equal(sent, (charged >= 1).double())
        silent = sent == 0
        assert torch.equal(state.membrane[silent], charged[silent])
        spikes += float(sent.sum())
    assert spikes > 20


OTHERS: list[Callable[[], Neuron]] = [lambda: SignedIF(ONE), lambda: Burst(ONE, most=2)]


@pytest.mark.parametrize("make", [*CHARGING, *OTHERS])
@torch.no_grad()
def test_what_it_keeps_is_the_slope_of_the_next_membrane(make: Callable[[], Neuron]) -> None:
    """Two membranes below the threshold, a little apart: after a step they are λ times as far."""
    neuron, current = make(), 0.1 * ONE.expand(1)
    start = neuron.start(current.expand(1, 1))
    ends = [
        neuron.step(current, start._replace(membrane=membrane * ONE.expand(1)))[1].membrane.item()
        for membrane in (0.3, 0.5)
    ]
    kept = neuron.keeps()
    assert kept is not None
    assert kept.item() == pytest.approx((ends[1] - ends[0]) / 0.2, rel=1e-12)


def test_a_neuron_that_does_more_than_charge_says_so() -> None:
    assert PSN(ONE, steps=3).keeps() is None and Graded(ONE).keeps() is None
