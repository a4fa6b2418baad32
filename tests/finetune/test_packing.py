"""Spikes kept as bytes: the gradients of floats, to the bit, for a quarter of the memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from live_memory import LiveMemory
from packed_runs import STEPS, criterion, gradients, held
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Batch, SurrogateBPTT, Task, TuneError
from spiketune.finetune.packing import AsItIs, Packing
from spiketune.finetune.rules import prepare
from spiketune.snn import (
    IF,
    LIF,
    PSN,
    Burst,
    Neuron,
    SignedIF,
    SpikingNetwork,
    State,
    neuron_path,
)
from spiketune.snn.fused import paths

Build = Callable[..., SpikingNetwork]
WAYS = [
    {},
    {"recompute_blocks": 2},
    {"recompute_steps": 3},
    {"recompute_blocks": 2, "recompute_steps": 3},
]


def same(snn: SpikingNetwork, images: Tensor, **settings: object) -> None:
    """Gradients are the same to the bit, and the weights behind neurons do have some."""
    expected = gradients(snn, SurrogateBPTT(**settings), images)  # type: ignore[arg-type]
    rule = SurrogateBPTT(pack_spikes=True, **settings)  # type: ignore[arg-type]
    found = gradients(snn, rule, images)
    assert found.keys() == expected.keys() and len(found) > 3
    for name, gradient in found.items():
        assert bool(gradient.any()), name
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["if", "lif", "signed"])
def test_gradients_are_the_same(
    build: Build, data: tuple[Tensor, Tensor], kind: str, way: dict[str, int]
) -> None:
    # Thresholds by channel; the last layer keeps them flattened.
    snn = build(kind)
    assert [list(neuron.threshold.shape) for _, neuron in snn.neurons()] == [[4, 1, 1], [6, 1, 1]]
    same(snn, data[0], **way)


@pytest.mark.parametrize("settings", [{"train_thresholds": False}, {"detach_reset": False}])
def test_whatever_else_is_trained(
    build: Build, data: tuple[Tensor, Tensor], settings: dict[str, bool]
) -> None:
    same(build("signed"), data[0], **settings)


def test_neurons_that_see_all_steps_at_once(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build()
    for node, neuron in list(snn.neuron_nodes()):
        made = PSN(neuron.threshold, steps=STEPS, bias=torch.full((STEPS,), -0.1))
        snn.net.set_submodule(str(node.target), made)
    snn.refresh()
    same(snn, data[0])


class ChannelsLast(IF):
    """Sends what an IF neuron sends, with the channels last in memory."""

    def run(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        spikes, after = super().run(current, state)
        return spikes.movedim(2, -1).contiguous().movedim(-1, 2), after


def test_channels_last(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    (node, neuron), _ = snn.neuron_nodes()
    snn.net.set_submodule(str(node.target), ChannelsLast(neuron.threshold, initial=0.5))
    snn.refresh()
    with neuron_path("eager"):
        same(snn, data[0].to(memory_format=torch.channels_last))


def test_kernels_send_spikes_too(build: Build, data: tuple[Tensor, Tensor]) -> None:
    with neuron_path("compiled"):
        same(build(), data[0].to(memory_format=torch.channels_last), recompute_blocks=2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pack_spikes", [False, True])
def test_kernels_that_come_in_between_change_nothing(
    build: Build,
    data: tuple[Tensor, Tensor],
    pack_spikes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whoever ran step by step on the way forward does so when it is computed again.
    snn, rule = build(), SurrogateBPTT(pack_spikes=pack_spikes, recompute_steps=2)
    expected = gradients(snn, rule, data[0])
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    monkeypatch.setattr(paths, "WORTH", 60_000)
    for _ in range(4):
        found = gradients(snn, rule, data[0])
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    assert paths._ways.made


def test_half_precision_is_refused(build: Build, data: tuple[Tensor, Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TuneError, match="float32"):
        gradients(build(), SurrogateBPTT(pack_spikes=True), data[0])


class Residual(nn.Module):
    """Spikes go into a convolution, a sum and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)
        self.inner, self.outer = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = nn.functional.max_pool2d(x + self.outer(self.inner(x).relu()).relu(), 2)
        out: Tensor = self.last(x.mean((2, 3)))
        return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", [st.Binary(), st.Ternary()])
def test_residual_network(
    data: tuple[Tensor, Tensor], config: st.Binary | st.Ternary, way: dict[str, int]
) -> None:
    torch.manual_seed(0)
    snn = st.to_snn(Residual().eval(), data[0], config)
    same(snn, data[0], **way)
    same(snn.fold(), data[0], train_thresholds=False, **way)


@pytest.mark.parametrize("kind", ["if", "signed"])
def test_a_spike_takes_one_byte_of_four(
    build: Build, data: tuple[Tensor, Tensor], kind: str
) -> None:
    snn, images = build(kind), data[0]
    floats, packed = (
        held(snn, SurrogateBPTT(train_thresholds=False, pack_spikes=on), images)
        for on in (False, True)
    )
    neurons, thresholds = 4 * 16 + 6 * 16, 4 + 6
    assert floats - packed == (4 - 1) * STEPS * len(images) * neurons - 4 * thresholds


@pytest.mark.parametrize("way", [{"recompute_blocks": 4}, {"recompute_steps": 4}])
def test_what_is_computed_again_is_packed_too(way: dict[str, int]) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(8):
        layers += [nn.Linear(9, 9), nn.ReLU()]
    snn = st.twin(nn.Sequential(*layers, nn.Linear(9, 3)), 16, (1, 3, 3))
    x, peaks = torch.rand(500, 1, 3, 3), []
    for pack_spikes in (False, True):
        rule = SurrogateBPTT(train_thresholds=False, pack_spikes=pack_spikes, **way)
        learn = prepare(snn, rule, Task(steps=16, criterion=criterion))
        with LiveMemory() as memory, neuron_path("eager"):
            learn(Batch(x, torch.zeros(500)))
        peaks.append(memory.peak)
    assert peaks[1] < 0.9 * peaks[0]


def network(neuron: Neuron) -> SpikingNetwork:
    snn = st.twin(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()), 4, (1, 6, 5))
    ((node, _),) = snn.neuron_nodes()
    snn.net.set_submodule(str(node.target), neuron)
    snn.refresh()
    return snn


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda x: x,
    "time folded": lambda x: x.flatten(0, 1),
    "flattened": lambda x: x.flatten(0, 1).flatten(1),
    "turned": lambda x: x.movedim(2, -1),
    "repeated": lambda x: x.unsqueeze(0).expand(3, *x.shape),
    "one step": lambda x: x[1],
    "some channels": lambda x: x[:, :, 1:],
    "every other": lambda x: x[..., ::2],
    "other numbers": lambda x: x.view(torch.int32),
}
MADE: dict[str, Callable[[Tensor], Neuron]] = {
    "layer": lambda _: LIF(torch.tensor(0.7), leak=0.9),
    "channels": lambda channels: IF(channels),
    "ternary": lambda channels: SignedIF(channels),
    "folded": lambda channels: SignedIF(channels, folded=True),
    "neurons": lambda channels: IF(channels.expand(3, 6, 5).clone()),
    "channels last": lambda channels: ChannelsLast(channels),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("view", VIEWS)
def test_each_view_comes_back_as_it_was(made: str, view: str) -> None:
    neuron = MADE[made](torch.tensor([0.3, 1.1, 0.7]).view(3, 1, 1))
    current = 3 * torch.randn(4, 2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    packing = Packing(network(neuron))
    with packing.watching(), neuron_path("eager"):
        spikes, _ = neuron(current)
    shown = VIEWS[view](spikes)
    give = packing.pack(shown)
    part = view in ("one step", "some channels", "every other", "other numbers")
    part |= shown.untyped_storage() is not spikes.untyped_storage()  # flattening had to copy
    assert isinstance(give, AsItIs) == part
    with torch.no_grad():
        neuron.threshold.fill_(9.0)  # as an optimizer may before the way back
    expected, again = shown.clone(), give()
    assert again.stride() == shown.stride() and again.dtype == shown.dtype
    as_bits = torch.int32
    assert torch.equal(again.contiguous().view(as_bits), expected.contiguous().view(as_bits))
    assert set((spikes / spikes.abs().amax((0, 1, 3, 4), keepdim=True)).unique().tolist()) == (
        {-1.0, 0.0, 1.0} if isinstance(neuron, SignedIF) else {0.0, 1.0}
    )


def test_spikes_changed_in_place_are_spikes_no_more() -> None:
    neuron, weights = IF(torch.tensor(0.5)), torch.ones(3, requires_grad=True)
    packing = Packing(network(neuron))
    with packing.active():
        spikes, _ = neuron(torch.rand(4, 2, 3))
        before = spikes.clone()
        first = (weights * spikes).sum()
        spikes.mul_(torch.rand(3))  # bytes have been made: they hold what was
        second = (weights * spikes).sum()
        third = (weights * before).sum()
        before.add_(1)
    for loss, expected in ((first, before - 1), (second, spikes)):
        (found,) = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(found, expected.sum((0, 1)))
    with pytest.raises(TuneError, match="changed in place"):
        torch.autograd.grad(third, weights)


def test_another_value_at_the_same_address_is_no_spikes() -> None:
    neuron, weights = IF(torch.tensor(0.5)), torch.ones(50, requires_grad=True)
    packing, met = Packing(network(neuron)), 0
    for _ in range(20):
        with packing.active():
            spikes, _ = neuron(torch.rand(4, 2, 50))
            address = spikes.data_ptr()
            del spikes
            others = [torch.rand(4, 2, 50) for _ in range(10)]
            met += any(other.data_ptr() == address for other in others)
            losses = [(weights * other).sum() for other in others]
        for loss, other in zip(losses, others, strict=True):
            assert torch.equal(torch.autograd.grad(loss, weights)[0], other.sum((0, 1)))
    assert met > 0


def test_no_hook_stays_behind(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build()
    gradients(snn, SurrogateBPTT(pack_spikes=True, recompute_blocks=2), data[0])
    assert not any(neuron._forward_hooks for _, neuron in snn.neurons())


def test_refused_where_there_is_nothing_to_pack(build: Build) -> None:
    snn = network(Burst(torch.tensor(1.0)))
    with pytest.raises(TuneError, match=r"pack_spikes .* Burst"):
        prepare(snn, SurrogateBPTT(pack_spikes=True), Task(steps=4, criterion=criterion))
