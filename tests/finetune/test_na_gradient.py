"""NA's gradient of one layer, against golden numbers, brute force and a loop per neuron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neurons_by_hand import Array, spikes_and_potentials
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from spiketune.finetune.aggregation import Reach, later_errors, na_gradient, sparse_na_gradient
from spiketune.snn import Firing, HardReset, SoftReset

GOLDEN = Firing(reset=HardReset(), strict=True)
FIRINGS = [
    GOLDEN,
    Firing(reset=HardReset(to=-0.2)),
    Firing(reset=SoftReset(), strict=True),
    Firing(reset=SoftReset()),
]
REACHES = [Reach(), Reach(power=3, clip=5.0)]


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def golden(reach: Reach, decay: float) -> Tensor:
    """Run the notes' neuron: τ_m = 5, τ_s = 2, θ = 1, target spikes [1, 0, 0, 1]."""
    current, g = double(0.6, 0.7, 0.2, 0.9), double(-0.5, 0.25, 0.125, 0.0625)
    at_spikes = later_errors(g, 0.5) / 2  # as autograd brings it back through the synapse
    one = double(1.0)
    start = torch.zeros(1, dtype=torch.float64)
    return na_gradient(
        current[:, None], at_spikes[:, None], start, one, 0.8 * one,
        firing=GOLDEN, reach=reach, decay=decay,
    ).flatten()  # fmt: skip


@pytest.mark.parametrize(
    ("reach", "decay", "expected"),
    [
        (Reach(clip=1e6), 0.0, (-0.830078125, 0.911458333, 0.05859375, 0.520833333)),
        (Reach(clip=1e6), 0.5, (-0.68359375, 1.171875, 0.078125, 0.520833333)),
        (Reach(power=3, clip=5.0), 0.5, (-1.3671875, 1.0546875, 0.1220703125, 0.15625)),
    ],
)
def test_golden_numbers(reach: Reach, decay: float, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(golden(reach, decay), double(*expected), rtol=0, atol=1e-9)


def by_hand(
    currents: Array, errors: Array, start: float, threshold: float, leak: float, last: float,
    *, firing: Firing, reach: Reach,
) -> Array:  # fmt: skip
    """Return δ of one neuron, flip by flip, as the paper tells it."""
    spikes, potentials, end = spikes_and_potentials(currents, start, threshold, leak, firing)
    found = []
    for k in range(len(currents)):
        others, _, reached = spikes_and_potentials(currents, start, threshold, leak, firing, k)
        change = errors @ (others - spikes) + last * (reached - end)
        room = 1 - potentials[k] / threshold
        size = abs(room) ** reach.power
        inverse = reach.clip if size == 0 else min(1 / size, reach.clip)
        found.append(change * (-inverse if spikes[k] else inverse))
    return np.array(found)


def drawn(steps: int, seed: int) -> dict[str, Tensor]:
    """Draw 400 neurons of 8 channels, thresholds a channel."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    threshold = 0.5 + torch.rand(8, 1, 1, generator=make, dtype=torch.float64)
    current = 0.3 + 0.6 * normal(steps, 2, 8, 5, 5)
    current[0, 0, :, 0, 0] = threshold.flatten()  # exactly at the threshold
    return {
        "current": current, "error": normal(steps, 2, 8, 5, 5),
        "membrane": torch.zeros(2, 8, 5, 5, dtype=torch.float64),
        "threshold": threshold, "last": normal(2, 8, 5, 5),
    }  # fmt: skip


@pytest.mark.parametrize("reach", REACHES, ids=["first power", "cube"])
@pytest.mark.parametrize("firing", FIRINGS, ids=["hard strict", "hard", "soft strict", "soft"])
@pytest.mark.parametrize(("steps", "leak"), [(1, 0.8), (6, 0.8), (6, None)])
def test_both_forms_equal_a_loop_over_neurons(
    steps: int, leak: float | None, firing: Firing, reach: Reach
) -> None:
    given = drawn(steps, seed=steps)
    given["membrane"][1] = 0.3  # as a chunk before would have left it
    leaks = None if leak is None else double(leak)[0]
    found = na_gradient(**given, leak=leaks, firing=firing, reach=reach)
    sparse = sparse_na_gradient(**given, leak=leaks, firing=firing, reach=reach)
    columns = {
        name: tensor.expand_as(given["error"]).flatten(1).numpy() for name, tensor in given.items()
    }
    expected = np.stack([
        by_hand(
            columns["current"][:, n], columns["error"][:, n], columns["membrane"][0, n],
            columns["threshold"][0, n], leak or 1.0, columns["last"][0, n],
            firing=firing, reach=reach,
        )
        for n in range(400)
    ], axis=1)  # fmt: skip
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(sparse.flatten(1).numpy(), expected, rtol=0, atol=1e-12)


def test_a_long_run_follows_short_chains_only() -> None:
    current = 0.3 + 0.6 * torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    error = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
    given = (current, error, torch.zeros(50), torch.tensor(1.0), torch.tensor(0.8))
    for firing in FIRINGS:
        dense = na_gradient(*given, firing=firing, reach=Reach(), decay=0.5)
        sparse = sparse_na_gradient(*given, firing=firing, reach=Reach(), decay=0.5)
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)


def test_later_errors_are_a_geometric_sum() -> None:
    error = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = np.tril(0.6 ** np.maximum(0, np.subtract.outer(range(7), range(7))))
    torch.testing.assert_close(later_errors(error, 0.6), torch.tensor(weights.T) @ error)


def test_a_kernel_can_be_traced_from_it() -> None:
    given = (torch.rand(3, 4), torch.rand(3, 4), torch.zeros(4), torch.tensor(1.0))

    def gradient(*tensors: Tensor) -> Tensor:
        return na_gradient(*tensors, torch.tensor(0.8), firing=GOLDEN, reach=Reach(), decay=0.5)

    traced = make_fx(gradient, tracing_mode="symbolic")(*given)
    other = (torch.rand(3, 9), torch.rand(3, 9), torch.zeros(9), torch.tensor(0.7))
    assert torch.equal(traced(*other), gradient(*other))
