"""Kinds of neuron and small stems: what they make, what trains, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import (
    IF,
    LIF,
    PLIF,
    PSN,
    ATan,
    Firing,
    HardReset,
    SoftReset,
    SpiketuneError,
)
from spiketune.zoo import (
    LeakyNeuron,
    ModelError,
    NeuronKind,
    ParallelNeuron,
    ParametricNeuron,
    PlainNeuron,
)

STEPS = 4
KINDS = [
    PlainNeuron(),
    LeakyNeuron(),
    ParametricNeuron(),
    ParallelNeuron(),
    ParallelNeuron(order=2),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def ann() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Flatten(), nn.Linear(54, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        (PlainNeuron(), IF),
        (LeakyNeuron(), LIF),
        (ParametricNeuron(), PLIF),
        (ParallelNeuron(), PSN),
    ],
)
def test_each_kind_makes_its_neurons(kind: NeuronKind, unit: type) -> None:
    neurons = [neuron for _, neuron in st.twin(ann(), STEPS, (1, 8, 8), neuron=kind).neurons()]
    assert [type(neuron) for neuron in neurons] == [unit, unit]
    assert [neuron.ceiling for neuron in neurons] == [None, 6.0]
    assert all(neuron.threshold.item() == 1.0 for neuron in neurons)
    assert all(neuron.firing == kind.firing for neuron in neurons)


def test_the_paper_s_firing_is_the_default_where_there_is_a_paper() -> None:
    assert ParametricNeuron().firing == Firing(
        reset=HardReset(to=0.0), surrogate=ATan(alpha=2.0), detach_reset=True
    )
    assert ParallelNeuron().firing.surrogate == ATan(alpha=2.0)
    (_, first), _ = st.twin(ann(), STEPS, (1, 8, 8), neuron=ParametricNeuron()).neurons()
    assert isinstance(first, PLIF) and first.decay.item() == 0.0  # τ = 2


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_that_should_train_trains(kind: NeuronKind) -> None:
    x, labels = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    snn = st.twin(ann(), STEPS, (1, 8, 8), neuron=kind)
    # The leak of a LIF is a setting; those of a PLIF and a PSN are there to be learned.
    before = {n: p.clone() for n, p in snn.named_parameters() if not n.endswith("leak")}
    rule = st.SurrogateBPTT(surrogate=ATan())
    st.tune(snn, [(x, labels)], rule, steps=STEPS, epochs=6)
    still = [name for name, p in snn.named_parameters() if torch.equal(p, before.get(name, p))]
    assert still == [n for n, _ in snn.named_parameters() if n.endswith("leak")]


def test_a_psn_network_is_tuned_at_its_own_steps_only() -> None:
    snn = st.twin(ann(), STEPS, (1, 8, 8), neuron=ParallelNeuron())
    batch = (torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
    with pytest.raises(SpiketuneError, match="T=4 steps at once"):
        st.tune(snn, [batch], st.SurrogateBPTT(), steps=2, epochs=1)


@pytest.mark.parametrize(
    "kind",
    [
        kind(firing=Firing(reset=reset, strict=strict), **settings)
        for reset in (SoftReset(), HardReset(), HardReset(to=-0.5), HardReset(to=0.25))
        for strict in (False, True)
        for kind, settings in (
            (PlainNeuron, {}),
            (LeakyNeuron, {"leak": 0.7}),
            (ParametricNeuron, {"tau": 3.0}),
            (ParametricNeuron, {"tau": 1.3}),
        )
    ],
    ids=str,
)
@torch.no_grad()
def test_the_drive_makes_it_fire_at_every_step(kind: Any) -> None:
    unit = kind.make(steps=STEPS)
    out, _ = unit(torch.full((50, 1), kind.drive()))
    assert out.all()
    quiet, _ = unit(torch.full((50, 1), 0.7 * kind.drive()))
    assert not quiet.all()


def test_a_leak_beside_a_kind_is_refused() -> None:
    with pytest.raises(SpiketuneError, match="at once") as caught:
        st.twin(ann(), STEPS, (1, 8, 8), leak=0.5, neuron=PlainNeuron())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [LeakyNeuron(leak=0.0), ParametricNeuron(tau=1.0), ParallelNeuron(order=5)], ids=str
)
def test_settings_out_of_their_range_are_refused(kind: NeuronKind) -> None:
    with pytest.raises(SpiketuneError):
        st.twin(ann(), STEPS, (1, 8, 8), neuron=kind)


@pytest.mark.parametrize(("name", "stride", "side"), [("resnet10t", 1, 8), ("resnet18", 2, 4)])
def test_a_small_stem_keeps_pixels(name: str, stride: int, side: int) -> None:
    made = timm.create_model(name, in_chans=1, num_classes=3).eval()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    net = st.small_stem(made, stride)
    seen: list[Tensor] = []
    net.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(torch.rand(2, 1, 8, 8))
    assert seen[0].shape[2:] == (side, side)
    after = net.state_dict()
    kept = [key for key in before if key in after and not key.startswith("conv1")]
    assert len(kept) == len([key for key in before if not key.startswith("conv1")])
    assert all(torch.equal(after[key], before[key]) for key in kept)
    same = made.state_dict()
    assert all(torch.equal(same[key], before[key]) for key in before)


@torch.no_grad()
def test_resnet50_for_small_images_is_one_call() -> None:
    snn = st.spiking("resnet50", 10, 2, in_chans=1, image_size=28, stem_stride=2)
    assert snn.report.neurons == 49
    assert {row.became for row in snn.report.rows} == {"neuron", "linear", "stem"}
    sides = {node.name: shape[-1] for node, shape in snn.shapes().items() if len(shape) == 4}
    stages = [sides[f"layer{stage}_0_act3_relu"] for stage in (1, 2, 3, 4)]
    assert sides["conv2d"] == 14 and stages == [14, 7, 4, 2]
    assert list(snn(torch.rand(2, 1, 28, 28)).shape) == [2, 10]


def test_a_stem_for_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="no timm ResNet"):
        st.spiking("test_vit", 3, 2, image_size=32, stem_stride=1)
    with pytest.raises(ModelError, match="at least 1"):
        st.small_stem(timm.create_model("test_resnet"), 0)
