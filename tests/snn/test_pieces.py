"""Steps in pieces change no answer, and no step needs memory that grows with their number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as some
from snn_networks import dyadic, dyadic_images, spiking
from torch import Tensor, nn

from spiketune.snn import IF, Neuron, SignedIF, SpikingNetwork, neuron_path
from spiketune.snn import pieces as module
from spiketune.snn.dynamics import State
from spiketune.snn.pads import constant_padded, padded
from spiketune.snn.pieces import Pieces
from spiketune.snn.simulation import Simulation


class Narrowing(nn.Module):
    """Large values in front, small ones behind, a neck between, a residual sum, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, stride=2)
        self.narrow = nn.Conv2d(8, 2, 1)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(2 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answer."""
        x = F.relu(self.first(x))
        x = F.relu(self.wide(F.pad(x, (0, 1, 0, 1))))
        x = F.relu(self.narrow(x))
        x = F.relu(self.again(x) + x)
        return self.head(x.flatten(1))


def network(neuron: type[Neuron], drive: int | None = None) -> SpikingNetwork:
    return spiking(dyadic(Narrowing()), dyadic_images(3, 1, 8, 8), neuron, steps=11, drive=drive)


def curve(snn: SpikingNetwork, x: Tensor, budget: int) -> tuple[Tensor, Pieces]:
    pieces = Pieces(snn.program, x, budget=budget)
    run, parts = Simulation(snn.program, x, snn.drive, None, pieces), []
    while run.done < 11:
        parts.append(run.advance(min(pieces.steps, 11 - run.done)))
    return snn.readout(torch.cat(parts), snn.drive), pieces


@pytest.mark.parametrize("path", ["eager", "compiled"])
@pytest.mark.parametrize("neuron", [IF, SignedIF])
@pytest.mark.parametrize("drive", [None, 5])
@torch.no_grad()
def test_pieces_change_nothing(path: str, neuron: type[Neuron], drive: int | None) -> None:
    snn, x = network(neuron, drive), dyadic_images(3, 1, 8, 8)
    with neuron_path("eager"):
        expected = snn.unroll(x, chunk=1)
    assert len(expected[-1].unique()) > 3
    lengths = set()
    with neuron_path(path):
        assert torch.equal(snn.unroll(x), expected)
        assert torch.equal(snn.unroll(x, chunk=11), expected)
        for kilobytes in (1, 8, 12, 30, 1000):
            found, pieces = curve(snn, x, 1000 * kilobytes)
            assert torch.equal(found, expected)
            lengths.add(tuple(part.steps for part in pieces.parts))
    assert any(len(set(steps)) > 1 for steps in lengths)  # some ran in pieces of two lengths


@torch.no_grad()
def test_no_value_of_a_piece_is_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = network(IF), dyadic_images(4, 1, 8, 8)
    budget = 2 * 4 * 8 * 9 * 9 * 4  # two steps of the padded values
    largest: dict[str, int] = {}

    def see(name: str, out: Tensor) -> None:
        largest[name] = max(largest.get(name, 0), len(out))
        assert out.numel() * out.element_size() <= budget

    monkeypatch.setattr(module, "CPU", budget)
    assert torch.equal(snn.unroll(x, monitor=see)[-1], snn(x))
    assert min(largest.values()) <= 2 < max(largest.values())
    # What does not fit goes one step at a time.
    assert {part.steps for part in Pieces(snn.program, x, budget=1).parts} == {1}


@torch.no_grad()
def test_spikes_take_no_place_that_somebody_needs() -> None:
    snn, x = network(IF), dyadic_images(3, 1, 8, 8)
    with neuron_path("compiled"):
        expected = snn.unroll(x, chunk=11)
        _, neuron = list(snn.neurons())[-1]
        seen: list[tuple[Tensor, Tensor]] = []
        hook = neuron.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
        assert torch.equal(snn.unroll(x), expected)
        hook.remove()
    assert all(a.data_ptr() != b.data_ptr() for a, b in seen)
    # The sum before the last neuron has one user; what is added to it has two and stays.
    names = {node.name for node in snn.program.spent}
    assert any(name.startswith("add") for name in names)
    assert all(len(node.users) == 1 for node in snn.program.spent)
    current, start = torch.rand(5, 3, 4), torch.rand(3, 4)
    kept, state = current.clone(), State(start)
    with neuron_path("compiled"):
        plain, after = IF(torch.tensor(0.5))(current, state)
        assert torch.equal(current, kept)
        spikes, end = IF(torch.tensor(0.5))(current, state, spent=(True, True))
    assert torch.equal(spikes, plain) and torch.equal(end.membrane, after.membrane)
    assert spikes.data_ptr() == current.data_ptr() and end.membrane.data_ptr() == start.data_ptr()


@given(
    pad=some.sampled_from([[1, 2], [0, 1, 0, 1], [1, 0, 2, 3], [0, 0, 0, 0], [-1, 2], [1] * 6]),
    value=some.sampled_from([None, 0.0, -1.5]),
    last=some.booleans(),
)
def test_padding_is_that_of_torch(pad: list[int], value: float | None, last: bool) -> None:
    x = torch.rand(2, 3, 4, 5)
    x = x.to(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        found, expected = padded(x, pad, value=value), F.pad(x, pad, value=value)
        assert torch.equal(found, expected) and found.stride() == expected.stride()
        assert torch.equal(constant_padded(x, pad, value or 0.0), expected)
        assert torch.equal(padded(x, [1] * 4, "reflect"), F.pad(x, [1] * 4, "reflect"))
