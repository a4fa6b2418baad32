"""Delays against shifts in NumPy, the notes' derivatives, differences, and planted delays."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import Delay, Frames, SpiketuneError, SpikingNetwork, State, alpha_filter
from spiketune.snn.delay import Difference
from spiketune.snn.delays import Sharing
from spiketune.snn.simulation import Simulation

TIMES = (20, 47, 60, 130, 131, 200)


def shifted(x: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:by]), x[: len(x) - by]]) if by else x


def drawn(*shape: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (4, 1, 1), (4, 3, 2)], ids=["layer", "channel", "neuron"])
def test_each_place_is_shifted_by_its_own_whole_steps(shape: tuple[int, ...]) -> None:
    x = drawn(9, 2, 4, 3, 2)
    delay = 14 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
    sent, _ = Delay(delay)(x)
    by = delay.floor().long().expand(4, 3, 2)
    assert by.max() > 8 or not shape  # one or more never arrive
    for place in np.ndindex(4, 3, 2):
        expected = shifted(x[(..., *place)].numpy(), min(9, int(by[place])))
        assert np.array_equal(sent[(..., *place)].detach().numpy(), expected)


@settings(max_examples=20, deadline=None)
@given(some.lists(some.integers(1, 6), min_size=1, max_size=5))
def test_chunks_of_any_length_are_the_whole_run(pieces: list[int]) -> None:
    x = drawn(sum(pieces), 2, 3)
    unit = Delay(torch.tensor([0.0, 2.7, 9.0]))
    whole, _ = unit(x)
    state, parts = None, []
    for piece in x.split(pieces):
        sent, state = unit(piece, state)
        parts.append(sent)
    assert torch.equal(torch.cat(parts), whole)


def test_an_update_beyond_the_range_acts_as_its_border() -> None:
    unit, x = Delay(torch.zeros(3), maximum=4.5), drawn(9, 2, 3)
    unit.delay.data = torch.tensor([-2.0, 3.2, 20.0])
    assert torch.equal(unit(x)[0], Delay(torch.tensor([0.0, 3.2, 4.5]))(x)[0])


def response(steps: int, delay: float) -> Tensor:
    """Return the response to the notes' spikes, ``delay`` later, by its formula."""
    since = torch.arange(steps, dtype=torch.float64)[:, None] - torch.tensor(TIMES) - delay
    return (since.clamp_min(0) / 10 * (1 - since / 10).exp()).sum(1)


def spikes() -> Tensor:
    train = torch.zeros(300, 1, 1, dtype=torch.float64)
    train[list(TIMES)] = 1
    return train


def planted(unit: Delay, target: float, *, behind: bool) -> Tensor:
    """Return half the squared distance of the response, delayed before or behind the filter."""
    filtered = alpha_filter(spikes(), 10.0)
    sent = unit(filtered)[0] if behind else alpha_filter(unit(spikes())[0], 10.0)
    return (sent.flatten() - response(300, target)).square().sum() / 2


@pytest.mark.parametrize("behind", [True, False], ids=["responses", "spikes"])
@pytest.mark.parametrize(
    ("diff", "expected"), [("backward", -3.94339), ("central", -3.54578)], ids=str
)
def test_derivatives_are_the_notes(diff: Difference, expected: float, behind: bool) -> None:
    unit = Delay(3.0, diff=diff).double()
    planted(unit, 7.0, behind=behind).backward()
    assert unit.delay.grad is not None
    assert unit.delay.grad.item() == pytest.approx(expected, abs=1e-5)
    if diff == "central":  # which is the difference of the losses a step to either side
        around = [(response(300, d) - response(300, 7.0)).square().sum().item() / 2 for d in (2, 4)]
        assert (around[1] - around[0]) / 2 == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("start", "behind"), [(3.0, False), (12.5, True)])
@pytest.mark.parametrize("diff", ["backward", "central"])
def test_a_delay_finds_what_was_planted_from_either_side(
    diff: Difference, start: float, behind: bool
) -> None:
    unit = Delay(start, diff=diff).double()
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = planted(unit, 7.0, behind=behind)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 1e-20
    assert unit.steps().item() == 7
    assert abs(unit.delay.item() - 7.5) <= 0.5  # the middle of what acts as 7


def test_channels_find_their_own_delays_through_neurons_that_fire() -> None:
    """Eight planted delays between 0 and 8, all from 3, by the spikes of neurons behind them."""
    make = torch.Generator().manual_seed(2)
    x = (torch.rand(60, 16, 8, generator=make) < 0.06).float()
    truth = 8 * torch.rand(8, generator=make)
    neuron = st.SRMNeuron(tau_synapse=4.0).make(steps=60)
    with torch.no_grad():
        wanted = alpha_filter(neuron(1.2 * Delay(truth)(x)[0])[0], 4.0)
    unit = Delay(torch.full((8,), 3.0), maximum=12)
    optimizer = torch.optim.Adam(unit.parameters(), lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        sent = alpha_filter(neuron(1.2 * unit(x)[0])[0], 4.0)
        (sent - wanted).square().sum().backward()
        optimizer.step()
        unit.delay.data.clamp_(*unit.limits["delay"])
    assert wanted.any() and len(truth.floor().unique()) > 4
    assert torch.equal(unit.steps(), truth.floor().long())
    assert (unit.delay - (truth.floor() + 0.5)).abs().max() <= 0.5


def test_what_arrives_gets_its_gradient_as_much_earlier() -> None:
    x, upstream = drawn(9, 2, 3).requires_grad_(), drawn(9, 2, 3, seed=1)
    unit = Delay(torch.tensor([0.0, 2.0, 11.0]))
    (found,) = torch.autograd.grad(unit(x)[0], x, upstream)
    for place, by in enumerate((0, 2, 9)):
        late = np.concatenate([upstream[by:, :, place].numpy(), np.zeros((by, 2))])
        assert np.array_equal(found[..., place].numpy(), late)
    before = [drawn(2, 3, seed=5 + i).requires_grad_() for i in range(12)]
    state = State(x[0], extra=tuple(before))
    assert torch.autograd.gradcheck(lambda *given: unit(given[0], state)[0], (x, *before))


def test_a_central_difference_is_that_of_the_delay_a_step_to_either_side() -> None:
    x, weigh = drawn(9, 2, 3, 2), drawn(9, 2, 3, 2, seed=1)

    def sent(by: list[float]) -> Tensor:
        return (Delay(torch.tensor(by).view(3, 1))(x)[0] * weigh).sum((0, 1, 3))

    unit = Delay(torch.tensor([1.0, 4.0, 7.0]).view(3, 1)).double()
    (unit(x)[0] * weigh).sum().backward()
    assert unit.delay.grad is not None
    expected = (sent([2, 5, 8]) - sent([0, 3, 6])) / 2
    torch.testing.assert_close(unit.delay.grad.flatten(), expected.detach(), rtol=0, atol=1e-12)


class Residual(nn.Module):
    """Two layers of neurons, whose spikes are added up and pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(2, 3, 3), nn.ReLU()), (nn.Conv2d(3, 3, 1), nn.ReLU())
        self.layers = nn.ModuleList([*self.first, *self.second, nn.AvgPool2d(2), nn.Linear(27, 4)])

    def forward(self, x: Tensor) -> Tensor:
        early = self.layers[1](self.layers[0](x))
        late = self.layers[3](self.layers[2](early))
        answer: Tensor = self.layers[5](self.layers[4](early + late).flatten(1)).relu()
        return answer


def test_what_meets_others_is_delayed_before_it_does() -> None:
    found = []
    for per in get_args(Sharing)[1:]:
        torch.manual_seed(0)
        snn = st.twin(Residual(), 12, (2, 8, 8), neuron=st.SRMNeuron(tau_synapse=3.0)).eval()
        st.add_delays(snn, per=per)
        one, other = units(snn)
        one.delay.data.fill_(1.5), other.delay.data.fill_(3.5)
        with torch.no_grad():
            found.append(torch.cat(list(snn.outputs(3 * events()[:, 0], 12))))
    assert found[0].any()
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def network(
    *, delays: bool, per: Sharing = "channel", start: tuple[float, float] = (0, 6)
) -> SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 5), nn.ReLU(),
    )  # fmt: skip
    for weight in ann.parameters():
        weight.data.mul_(2.0)
    snn = st.twin(ann, 20, (2, 8, 8), neuron=st.SRMNeuron(tau_synapse=3.0))
    if delays:
        st.add_delays(snn, start=start, per=per, maximum=8)
    st.add_frames(snn, 12)
    return snn.eval()


def events(count: int = 3) -> Tensor:
    make = torch.Generator().manual_seed(4)
    return (torch.rand(count, 12, 2, 8, 8, generator=make) < 0.3).float()


def units(snn: SpikingNetwork) -> list[Delay]:
    return [unit for unit in snn.modules() if isinstance(unit, Delay)]


def test_pooling_before_a_delay_is_pooling_behind_it() -> None:
    pooled, behind = network(delays=True), network(delays=True, per="neuron")
    names = [name for name, unit in pooled.net.named_modules() if isinstance(unit, Delay)]
    assert names == ["2.delay", "4.delay"]  # behind the pool, and none behind what answers
    for one, other in zip(units(pooled), units(behind), strict=True):
        other.delay.data = one.delay.data.expand(other.delay.shape).clone()
    with torch.no_grad():
        assert pooled(events()).any()
        torch.testing.assert_close(behind(events()), pooled(events()), rtol=0, atol=1e-6)


def test_a_network_in_chunks_and_from_a_file_answers_alike(tmp_path: Path) -> None:
    snn, x = network(delays=True), events()
    st.save(snn, tmp_path / "net.safetensors")
    again = st.load(tmp_path / "net.safetensors")
    whole = torch.cat(list(snn.outputs(x, 20))).detach()
    assert whole.any()
    with torch.no_grad():
        for other, chunk in ((snn, 3), (again, None), (again, 7)):
            assert torch.equal(torch.cat(list(other.outputs(x, 20, chunk=chunk))), whole)
    assert [(unit.maximum, unit.diff) for unit in units(again)] == [(8, "central")] * 2
    assert torch.equal(units(again)[0].delay, units(snn)[0].delay)
    assert not torch.equal(snn(x), network(delays=True, start=(0, 0))(x))


@torch.no_grad()
def test_images_may_leave_while_spikes_are_on_their_way() -> None:
    snn, x = network(delays=True), events()
    whole = torch.cat(list(snn.outputs(x, 20)))
    run = Simulation(snn.program, x)
    run.advance(7)
    run.keep(torch.tensor([2, 0]))
    assert torch.equal(run.advance(13), whole[7:, [2, 0]])


def test_a_spike_costs_what_it_costs_without_delay() -> None:
    plain, late = network(delays=False), network(delays=True, start=(0, 0))
    one, other = st.costs(plain), st.costs(late)
    assert one.dense_macs == other.dense_macs and one.neurons == other.neurons
    assert any(fan_out.any() for fan_out in one.fan_out.values())
    assert one.fan_out.keys() == other.fan_out.keys()
    for name, fan_out in one.fan_out.items():
        assert torch.equal(fan_out, other.fan_out[name])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SpiketuneError, match=r"0 steps or more, not -1\.5: nothing arrives before"):
        Delay(torch.tensor([2.0, -1.5]))
    with pytest.raises(SpiketuneError, match="0 steps or more, not nan"):
        Delay(float("nan"))
    for wrong in (float("inf"), "3", True, None):
        with pytest.raises(SpiketuneError, match=r"a delay must be 0 steps or more, not"):
            Delay(wrong)  # type: ignore[arg-type]
        with pytest.raises(SpiketuneError, match="maximum must be 1 step or more, not"):
            Delay(0.0, maximum=wrong or "None")  # type: ignore[arg-type]
    with pytest.raises(SpiketuneError, match="9 steps is above maximum=8"):
        Delay(9.0, maximum=8)
    with pytest.raises(SpiketuneError, match="maximum must be 1 step or more, not 0"):
        Delay(0.0, maximum=0)
    with pytest.raises(SpiketuneError, match="backward or central, not 'forward'"):
        Delay(0.0, diff="forward")  # type: ignore[arg-type]
    with pytest.raises(SpiketuneError, match=r"delays of shape \[3\] for samples of shape \[4\]"):
        Delay(torch.zeros(3))(torch.zeros(5, 2, 4))
    broken = Delay(2.0)
    broken.delay.data.fill_(float("nan"))
    with pytest.raises(SpiketuneError, match="the training broke down"):
        broken(torch.zeros(5, 2, 4))


def test_a_network_that_cannot_be_delayed_is_left_as_it_was() -> None:
    snn = network(delays=False)
    for arguments, message in (
        ({"maximum": 20}, "up to 20 steps in a network of 20"),
        ({"start": -1.0}, "0 steps or more, not -1"),
        ({"start": (0, 30)}, "30 steps is above maximum=19"),
        ({"start": (4, 0)}, r"two with the smaller first, not \(4, 0\)"),
        ({"start": (1, 2, 3)}, "a number of steps, or two"),
        ({"start": "3"}, "a number of steps, or two with the smaller first, not '3'"),
        ({"maximum": float("inf")}, "maximum must be 1 step or more, not inf"),
        ({"per": "pixel"}, "layer, channel, neuron, not 'pixel'"),
    ):
        with pytest.raises(SpiketuneError, match=message):
            st.add_delays(snn, **arguments)  # type: ignore[arg-type]
    assert not units(snn)
    with pytest.raises(SpiketuneError, match="delays already"):
        st.add_delays(network(delays=True))
    lone = st.twin(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), 4, (3,), neuron=st.SRMNeuron())
    with pytest.raises(SpiketuneError, match="nothing to delay"):
        st.add_delays(lone)
    assert any(isinstance(unit, Frames) for unit in snn.modules())
