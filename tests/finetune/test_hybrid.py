"""The hybrid recipes from end to end on real digits, and the settings that the papers name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import spiketune as st
from spiketune.finetune import TuneError
from spiketune.finetune.optimizers import make_optimizer
from spiketune.snn import IF, LIF, Membrane, SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]


def papers_ann() -> nn.Module:
    """Return a network as both papers ask for: no biases, no BatchNorm, average pooling."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(96, 48, bias=False), nn.ReLU(), nn.Linear(48, 10, bias=False),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[Data, Data]:
    cfg = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
    train, test = (st.load_data("digits", split, cfg=cfg) for split in ("train", "test"))
    return train.tensors, test.tensors


@pytest.fixture(scope="module")
def ann(digits: tuple[Data, Data]) -> nn.Module:
    network, (images, labels) = papers_ann(), digits[0]
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(15):
        for at in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[at]), labels[at]).backward()
            optimizer.step()
    return network.eval()


def accuracy(network: nn.Module, data: Data) -> float:
    with torch.no_grad():
        return float((network(data[0]).argmax(1) == data[1]).float().mean())


@pytest.mark.parametrize(
    ("name", "gain", "within"), [("rathi2020", 0.08, 0.2), ("diet2021", 0.02, 0.06)]
)
def test_a_few_epochs_bring_a_converted_network_closer_to_the_ann(
    ann: nn.Module, digits: tuple[Data, Data], name: str, gain: float, within: float
) -> None:
    train, test = digits
    snn = st.to_snn(ann, train[0], st.recipe(name, steps=4))
    before = accuracy(snn, test)
    loader = DataLoader(TensorDataset(*train), batch_size=16, shuffle=True)
    rule, training = st.hybrid(name, epochs=4)
    history = st.tune(snn, loader, rule, steps=4, epochs=4, training=training)
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss
    assert accuracy(snn, test) > before + gain
    assert accuracy(snn, test) > accuracy(ann, test) - within
    assert isinstance(snn.readout, Membrane)
    assert {type(neuron) for _, neuron in snn.neurons()} == {LIF if name == "diet2021" else IF}


# What the papers say: rate at first, its divisor, decay of the weights, AMSGrad or plain Adam.
@pytest.mark.parametrize(
    ("name", "divisor", "decay", "amsgrad"),
    [("rathi2020", 5, 5e-4, True), ("diet2021", 10, 0.0, False)],
)
def test_the_optimizer_is_the_papers(
    build: Build, data: Data, name: str, divisor: float, decay: float, amsgrad: bool
) -> None:
    rule, training = st.hybrid(name, epochs=10)
    snn = build()
    history = st.tune(snn, [data] * 2, rule, steps=2, epochs=10, training=training)
    # After 60, 80 and 90 %; away from the borders, where one update more or less is the schedule's.
    falls = {1: 0, 5: 0, 7: 1, 10: 3}
    expected = [1e-4 / divisor**fall for fall in falls.values()]
    assert [history.epochs[at - 1].learning_rate for at in falls] == pytest.approx(expected)
    optimizer = make_optimizer(snn, training)
    assert type(optimizer) is torch.optim.Adam
    assert [group["amsgrad"] for group in optimizer.param_groups] == [amsgrad] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, 0.0]
    trained = {parameter.requires_grad for _, n in snn.neurons() for parameter in n.parameters()}
    assert trained == {name == "diet2021"}


def test_each_has_a_conversion_of_the_same_name() -> None:
    conversions = {one.name: one for one in st.recipes()}
    for one in st.hybrids():
        assert conversions[one.name].paper.startswith(one.paper.partition(" (")[0])
        assert str(one).startswith(one.name) and len(str(one)) < 160


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(TuneError, match="did you mean diet2021"):
        st.hybrid("diet", 3)
    with pytest.raises(TuneError, match="rathi2020, diet2021"):
        st.hybrid("???", 3)
    with pytest.raises(TuneError, match="epochs must be at least 1"):
        st.hybrid("rathi2020", 0)
