"""SEW-ResNets against a loop over steps by hand, closed forms of the identity, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Exponential, TuneError
from spiketune.snn import ATan, Linear, Rectangle, Scaled, SuperSpike, Surrogate, Triangle
from spiketune.snn.cost import costs
from spiketune.snn.gates import And, Gate, Iand
from spiketune.zoo import ModelError, ParallelNeuron, ParametricNeuron, PlainNeuron, sew
from spiketune.zoo.bundled import light_stem_resnet
from spiketune.zoo.neurons import HARD

STEPS = 4
KINDS = ("add", "and", "iand")
# ``g(o, x)`` as the paper's table 1 gives it.
TABLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda o, x: o + x,
    "and": lambda o, x: ((o == 1) & (x == 1)).to(x.dtype),
    "iand": lambda o, x: ((o == 0) & (x == 1)).to(x.dtype),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def plain(ann: nn.Module, size: int = 6, **options: Any) -> st.SpikingNetwork:
    return st.twin(ann, STEPS, (1, size, size), neuron=PlainNeuron(firing=HARD), **options)


def small() -> ResNet:
    """Two stages, the second with a shortcut of its own, and timm's stem with its max-pool."""
    net = ResNet(BasicBlock, [2, 1], num_classes=3, in_chans=1, channels=(4, 6), stem_width=4)  # type: ignore[arg-type]
    net.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)  # type: ignore[assignment]
    net.bn1 = nn.BatchNorm2d(4)
    net.layer1[0].conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    net.layer1[0].downsample = None
    net.layer3, net.layer4 = nn.Identity(), nn.Identity()
    return net


def lively(net: nn.Module) -> nn.Module:
    """Let every BatchNorm drive its neurons; as they begin, the blocks' last ones are silent."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.6)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.1, 0.5)  # type: ignore[arg-type]
    return net.eval()


def fired(current: Tensor) -> Tensor:
    """IF, threshold 1, hard reset to 0: ``current [T, B, ...]``."""
    v, out = torch.zeros_like(current[0]), []
    for c in current:
        v = v + c
        s = (v >= 1).to(v.dtype)
        v = torch.where(s == 1, torch.zeros_like(v), v)
        out.append(s)
    return torch.stack(out)


def each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.stack([function(now) for now in x])


@torch.no_grad()
def by_hand(net: Any, x: Tensor, connect: str) -> tuple[Tensor, list[Tensor]]:
    """Return the mean answer, and what each block sends ``[T, B, ...]``."""
    s = fired(each(lambda now: net.bn1(net.conv1(now)), x.expand(STEPS, *x.shape)))
    s, sent = each(net.maxpool, s), []
    for outer in (*net.layer1, *net.layer2):
        block, shortcut = outer.block, outer.shortcut
        o = fired(each(lambda now, b=block: b.bn1(b.conv1(now)), s))  # type: ignore[misc]
        o = fired(each(lambda now, b=block: b.bn2(b.conv2(now)), o))  # type: ignore[misc]
        s = TABLE[connect](o, s if shortcut is None else fired(each(shortcut[0], s)))
        sent.append(s)
    return each(lambda now: net.fc(net.global_pool(now)), s).mean(0), sent


@pytest.mark.parametrize("connect", KINDS)
@torch.no_grad()
def test_the_network_equals_a_loop_over_steps(connect: Any) -> None:
    net, x = lively(sew(small(), connect)), torch.rand(3, 1, 8, 8)
    snn = plain(net, 8).eval()
    expected, sent = by_hand(net, x, connect)
    torch.testing.assert_close(snn(x), expected, rtol=1e-5, atol=1e-6)
    assert [bool(s.any()) and not bool(s.all()) for s in sent] == [True] * 3
    values = set(torch.cat([s.flatten() for s in sent]).unique().tolist())
    assert values == ({0.0, 1.0, 2.0, 3.0} if connect == "add" else {0.0, 1.0})
    assert snn.about["method"] == "direct"

    seen: list[Tensor] = []
    gates = {n.name for n in snn.net.graph.nodes if n.target in _gates(snn)}
    snn.unroll(x, monitor=lambda name, out: seen.append(out) if name in gates else None)
    for found, block in zip(seen, [] if connect == "add" else sent, strict=True):
        assert torch.equal(found, block)


def _gates(snn: st.SpikingNetwork) -> dict[str, Gate]:
    return {name: unit for name, unit in snn.net.named_modules() if isinstance(unit, Gate)}


def test_a_report_names_the_gates() -> None:
    assert [type(gate) for gate in _gates(plain(sew(small(), "iand"), 8)).values()] == [Iand] * 3
    snn = plain(sew(small(), "and"), 8)
    assert [type(gate) for gate in _gates(snn).values()] == [And] * 3
    rows = [row for row in snn.report.rows if row.became == "gated"]
    assert [row.path for row in rows] == ["layer1.0", "layer1.1", "layer2.0"]
    # What a block of timm's adds to itself is left out, not computed as nothing.
    assert not [node for node in snn.net.graph.nodes if "add" in str(node.target)]
    # Stem, two in each block, one on the only shortcut that is not the identity.
    assert snn.report.neurons == 1 + 2 * 3 + 1


@pytest.mark.parametrize(("connect", "depth"), [("add", 100), ("iand", 100), ("and", 20)])
def test_new_blocks_are_the_identity_forward_and_backward(connect: Any, depth: int) -> None:
    ann: Any = light_stem_resnet((depth,), (4,), num_classes=3, in_chans=1)
    snn = plain(sew(ann, connect))
    kept: list[Tensor] = []

    def keep(unit: nn.Module, args: object, out: tuple[Tensor, object]) -> None:
        out[0].retain_grad()
        kept.append(out[0])

    snn.net.get_submodule("act1.relu").register_forward_hook(keep)
    weight = torch.randn(5, 3)
    answer = snn(torch.rand(5, 1, 6, 6))
    (answer * weight).sum().backward()
    (stem,) = kept

    # Without any block: the head on the stem's spikes.
    spikes = stem.detach().clone().requires_grad_(True)
    expected = ann.fc(spikes.mean((3, 4))).mean(0)
    (expected * weight).sum().backward()
    assert 0 < float(spikes.detach().mean()) < 1
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-6)
    assert stem.grad is not None and spikes.grad is not None
    torch.testing.assert_close(stem.grad, spikes.grad, rtol=1e-5, atol=1e-9)
    assert float(stem.grad.norm() / spikes.grad.norm()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("connect", ["and", "iand"])
@torch.no_grad()
def test_gated_spikes_keep_their_size_whatever_the_thresholds(connect: Any) -> None:
    snn = plain(lively(sew(small(), connect)), 8).eval()
    for number, (_, neuron) in enumerate(snn.neurons()):
        neuron.threshold.copy_(torch.tensor(0.5 + 0.07 * number))
    first, x = snn.net.get_submodule("act1.relu"), torch.rand(3, 1, 8, 8)
    own = snn.net.get_submodule("layer2.0.shortcut.1.relu")
    found: list[set[float]] = []
    gates = {n.name for n in snn.net.graph.nodes if n.target in _gates(snn)}

    def watch(name: str, out: Tensor) -> None:
        if name in gates:
            found.append(set(out.unique().tolist()))

    answer = snn.unroll(x, monitor=watch)[-1]
    entering = [float(first.threshold), float(first.threshold), float(own.threshold)]  # type: ignore[arg-type]
    assert found == [{0.0, theta} for theta in entering]
    torch.testing.assert_close(snn.fold()(x), answer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("connect", KINDS)
@torch.no_grad()
def test_a_gate_stops_spikes_and_costs_nothing_itself(connect: Any) -> None:
    ann = light_stem_resnet((2,), (4,), num_classes=3, in_chans=1)
    del ann.layer1[1]  # timm makes no fewer than two
    snn = plain(sew(ann, connect))
    found = costs(snn)
    assert found.dense_macs == 0 and not [name for name in found.becomes if "mul" in name]
    # Of 6x6 pixels, a 3x3 kernel around each meets those inside the border, in 4 channels.
    line = torch.tensor([2.0, 3, 3, 3, 3, 2])
    conv = 4 * (line[:, None] * line).expand(4, 6, 6)
    head = torch.full((4, 6, 6), 3.0)
    fan_out = {name: value.round() for name, value in found.fan_out.items()}
    added = connect == "add"
    assert torch.equal(fan_out["act1_relu"], conv + head if added else conv)
    assert torch.equal(fan_out["layer1_0_block_act1_relu"], conv)
    assert torch.equal(fan_out["layer1_0_block_act2_relu"], head if added else 0 * head)
    assert ("layer1_0_gate" in fan_out) is not added
    if not added:
        assert torch.equal(fan_out["layer1_0_gate"], head)


@pytest.mark.parametrize("connect", KINDS)
@torch.no_grad()
def test_what_is_loaded_is_what_was_saved(connect: Any, tmp_path: Path) -> None:
    snn = plain(lively(sew(small(), connect)), 8).eval()
    again = st.load(st.save(snn, tmp_path / "sew.safetensors"))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), snn(x)) and snn(x).std() > 0
    assert list(map(type, _gates(again).values())) == list(map(type, _gates(snn).values()))
    assert str(again.report) == str(snn.report)


@pytest.mark.parametrize("connect", KINDS)
def test_by_name_it_trains(connect: Any) -> None:
    snn = st.sew_resnet("digits_resnet", 10, STEPS, connect=connect, in_chans=1)
    assert snn.training and snn.steps == STEPS
    assert snn.about["method"] == f"direct sew-{connect} digits_resnet"
    assert {neuron.firing for _, neuron in snn.neurons()} == {HARD}
    images = st.load_data("digits", "train", cfg=snn, limit=24)
    batches = [(images.tensors[0], images.tensors[1])]
    rule = st.SurrogateBPTT(surrogate=HARD.surrogate, train_thresholds=False)
    before = {name: value.clone() for name, value in snn.named_parameters()}
    history = st.tune(
        snn, batches, rule, steps=STEPS, epochs=15, training=st.Training(learning_rate=0.02)
    )
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    still = [
        name
        for name, value in snn.named_parameters()
        if value.requires_grad and torch.equal(value, before[name])
    ]
    assert still == []


SHORT = (Triangle(), Linear(), Rectangle(), Scaled(surrogate=Triangle(width=0.5), gain=9.0))


@cache
def begun(connect: Any) -> st.SpikingNetwork:
    return st.sew_resnet("digits_resnet", 10, STEPS, connect=connect, in_chans=1)


def inner_gradients(snn: st.SpikingNetwork, slope: Surrogate) -> list[float]:
    """Largest gradients of what lies in the blocks, for any slope, refused or not."""
    for _, neuron in snn.neurons():
        neuron.firing = replace(neuron.firing, surrogate=slope)
    snn(torch.rand(4, 1, 8, 8), STEPS).square().sum().backward()
    inner = [p for name, p in snn.named_parameters() if ".block.bn2" in name]
    assert inner
    return [0.0 if p.grad is None else float(p.grad.abs().max()) for p in inner]


@pytest.mark.parametrize("slope", [*SHORT, ATan(), SuperSpike(), Triangle(width=3.0)], ids=str)
@pytest.mark.parametrize("connect", KINDS)
def test_slopes_that_could_never_teach_a_block_are_refused(connect: Any, slope: Surrogate) -> None:
    def fresh() -> st.SpikingNetwork:
        return deepcopy(begun(connect))

    dead = connect != "and" and slope in SHORT
    assert (max(inner_gradients(fresh(), slope)) == 0) is dead
    data = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    use: dict[str, Any] = {"steps": STEPS, "epochs": 1}
    if not dead:
        st.tune(fresh(), data, st.SurrogateBPTT(surrogate=slope), **use)
        return
    for rule in (st.SurrogateBPTT(surrogate=slope), st.SLTT(surrogate=slope)):
        with pytest.raises(TuneError, match=r"^layer1_0_block_act2_relu: .* ATan\(\)") as caught:
            st.tune(fresh(), data, rule, **use)
        assert str(slope) in str(caught.value) and "\n" not in str(caught.value)
    moved = fresh()
    for name, parameter in moved.named_parameters():
        if ".bn2" in name and name.endswith("bias"):
            nn.init.constant_(parameter, 0.8)
    st.tune(moved, data, st.SurrogateBPTT(surrogate=slope), **use)


def test_so_is_the_slope_of_stdb_and_one_that_forgets_silent_neurons() -> None:
    data = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    for slope, named in (
        (Linear(), "Linear(height=0.3)"),
        (Exponential(cutoff=103), "the rule's own slope"),
    ):
        snn = deepcopy(begun("add"))
        with pytest.raises(TuneError) as caught:
            st.tune(snn, data, st.STDB(slope=slope), steps=STEPS, epochs=1)
        assert str(caught.value) == (
            "layer1_0_block_act2_relu: the BatchNorm before it starts at zero, so its membrane "
            f"rests a threshold below firing, where {named} is zero, and nothing before it would "
            "ever learn; train with STDB(slope=Exponential(silence=1)), or start that BatchNorm "
            "elsewhere"
        )
    snn = deepcopy(begun("add"))
    inner = {n: p.clone() for n, p in snn.named_parameters() if ".block." in n and p.dim() == 4}
    still = st.Training(weight_decay=0)
    rule = st.STDB(slope=Exponential(silence=1))
    st.tune(snn, data, rule, steps=STEPS, epochs=2, training=still)
    now = dict(snn.named_parameters())
    assert inner and not any(torch.equal(now[name], before) for name, before in inner.items())


def test_the_network_given_stays_as_it_was() -> None:
    ann = timm.create_model("test_resnet", num_classes=3)
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    sew(ann, "and")
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert all(isinstance(block, BasicBlock) for block in ann.layer1)


def test_bottlenecks_and_deep_stems_have_their_twins_too() -> None:
    snn = st.sew_resnet("resnet26d", 5, 2, connect="iand", in_chans=1, image_size=16)
    gated = [row for row in snn.report.rows if row.became == "gated"]
    assert len(gated) == 8 and snn.report.neurons == 3 + 8 * 3 + 4
    assert list(snn(torch.rand(2, 1, 16, 16)).shape) == [2, 5]


class Gated(nn.Module):
    """Products of spikes outside any ResNet, one of them of what a gate let out and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 5, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (torch.relu(layer(x)) for layer in (self.a, self.b, self.c))
        return (a * b + c) * (1 - b)


@torch.no_grad()
def test_any_product_of_spikes_is_taken_in_each_step() -> None:
    net, x = Gated(), torch.rand(6, 4) * 3
    snn = st.twin(net, STEPS, (4,), neuron=PlainNeuron(firing=HARD)).eval()
    now = x.expand(STEPS, *x.shape)
    a, b, c = (fired(each(layer, now)) for layer in (net.a, net.b, net.c))
    expected = ((a * b + c) * (1 - b)).mean(0)
    assert torch.equal(snn(x), expected) and expected.std() > 0
    assert [type(gate).__name__ for gate in _gates(snn).values()] == ["And", "Iand"]


def test_a_product_with_what_is_no_spike_stays_a_function() -> None:
    class Squeezed(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x)) * torch.sigmoid(2 * torch.relu(self.c(x)))

    snn = st.twin(Squeezed(), STEPS, (4,))
    assert not _gates(snn) and "function" in {row.became for row in snn.report.rows}


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_networks_of_other_blocks_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no residual block") as caught:
        st.sew_resnet(name, 3, 2)
    assert "\n" not in str(caught.value)


def test_another_join_is_refused() -> None:
    wrong: Any = "or"
    with pytest.raises(ModelError, match="add, and, iand"):
        sew(small(), wrong)


def test_neurons_that_cannot_always_fire_are_refused_in_and_blocks() -> None:
    with pytest.raises(ModelError, match="fire at every step"):
        st.sew_resnet("digits_resnet", 3, 2, connect="and", in_chans=1, neuron=ParallelNeuron())


@torch.no_grad()
def test_and_blocks_of_leaky_neurons_begin_as_the_identity_too() -> None:
    snn = st.sew_resnet(
        "digits_resnet", 3, 6, connect="and", in_chans=1, neuron=ParametricNeuron(tau=3.0)
    )
    rates: dict[str, float] = {}
    snn.unroll(
        torch.rand(2, 1, 8, 8), monitor=lambda name, out: rates.update({name: float(out.mean())})
    )
    last = [rate for name, rate in rates.items() if name.endswith("block_act2_relu")]
    assert last == [1.0] * 3
