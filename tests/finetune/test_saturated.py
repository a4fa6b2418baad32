"""Neurons that fire as often as their rest lets them: no credit, alone, in a batch, in a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting_networks import LOSS, STEPS, gradients, linear, network
from torch import Tensor

import spiketune as st
from spiketune.finetune import HM2BP, STRSBP, Rule, TuneError
from spiketune.finetune.counted import Counting, counted
from spiketune.snn import Recurrent, Refractory

LABELS = torch.tensor([0, 2, 1, 0])


def images(count: int = 4) -> Tensor:
    return 2 * torch.rand(count, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("layer", [Refractory, Recurrent], ids=str)
@pytest.mark.parametrize("period", [0, 1, 2])
@pytest.mark.parametrize("steps", [11, 12, 13])
def test_more_current_changes_nothing_where_credit_is_withheld(
    layer: type, period: int, steps: int
) -> None:
    # The restless one hears the others, who do not hear it.
    own = {"weight": torch.tensor([[0.0, 1.0, 1.0, 0], *[[0.0] * 4] * 3]).double()}
    theta = torch.tensor(0.5).double()
    neuron = layer(theta, leak=0.9, period=period, **(own if layer is Recurrent else {}))
    drive = torch.tensor([0.9, 0.2, -0.3, 0.9]).double()  # restless, between, silent, late
    current = drive.repeat(steps, 1, 1)
    current[:2, :, 3] = -1.0
    sent, louder = neuron(current)[0], neuron(current + 3.0)[0]
    counts = (sent > 0).sum(0)[0].tolist()
    assert counts[0] == -(-steps // (period + 1)) > max(counts[1:]) and counts[2] == 0
    assert min(counts[1], counts[3]) > 0
    assert torch.equal(sent[..., 0], louder[..., 0]) and not torch.equal(sent, louder)
    grad = torch.randn(steps, 1, 4, generator=torch.Generator().manual_seed(0)).double()
    found = {}
    alone = Refractory(theta, leak=0.9, period=period)
    for one, saturated in ((neuron, "zero"), (alone, "full")):
        x = current.clone().requires_grad_()
        how = Counting(saturated=saturated, factor="counts")  # type: ignore[arg-type]
        counted(how, one, x, one.start(x))[0].backward(grad)
        assert x.grad is not None
        found[saturated] = x.grad[:, 0]
    assert found["full"][:, 0].any() and not found["zero"][:, 0].any()
    assert found["full"][:, 1].any() and found["full"][:, 3].any()
    torch.testing.assert_close(found["zero"][:, 1:], found["full"][:, 1:])


@pytest.mark.parametrize("saturated", ["zero", "full"])
def test_a_layer_with_a_busy_neuron_learns_alone_what_it_learns_in_a_batch(saturated: Any) -> None:
    make = torch.Generator().manual_seed(0)
    weight = 0.3 * torch.randn(3, 3, generator=make).double()
    layer = Recurrent(torch.tensor(0.5).double(), weight=weight, leak=0.9, period=1)
    current = torch.tensor([[5.0, 0.2, 0.3], [0.25, 0.2, 0.3]]).double().repeat(12, 1, 1)
    grad = torch.randn(12, 2, 3, generator=make).double()
    counts = (layer(current)[0] > 0).sum(0)
    assert counts[0, 0] == 6 > counts[1].max() and counts.min() > 0
    found = []
    for kept in (slice(None), slice(1), slice(1, 2)):
        x, layer.weight.grad = current[:, kept].clone().requires_grad_(), None
        how = Counting(saturated=saturated, factor="counts")
        counted(how, layer, x, layer.start(x))[0].backward(grad[:, kept])
        assert x.grad is not None and isinstance(layer.weight.grad, Tensor)
        found.append((x.grad, layer.weight.grad))
    (whole, of_all), (busy, of_one), (quiet, of_other) = found
    torch.testing.assert_close(whole, torch.cat([busy, quiet], dim=1))
    torch.testing.assert_close(of_all, of_one + of_other)
    assert (saturated == "zero") != bool(busy[..., 0].any())


def test_outputs_that_fire_too_often_are_credited_all_the_same() -> None:
    snn, x = network(*linear(5, 6, 3), shape=(5,)), images()
    snn.net.get_parameter("2.weight").data.fill_(9.0)
    full, zero = (
        gradients(snn, HM2BP(saturated=one), x, LABELS)["2.weight"]  # type: ignore[arg-type]
        for one in ("full", "zero")
    )
    assert full.any() and torch.equal(full, zero)


@pytest.mark.parametrize("rule", [HM2BP, STRSBP])
def test_a_layer_that_cannot_fire_more_stops_with_a_remedy(rule: type[Rule]) -> None:
    snn = network(*linear(5, 6, 3), shape=(5,))
    snn.net.get_parameter("0.weight").data.fill_(50.0)
    data, training = [(images() + 1, LABELS)], st.Training(loss=LOSS)
    with pytest.raises(TuneError, match=r"all of its 6 neurons fired as often.*saturated='full'"):
        st.tune(snn, data, rule(), steps=STEPS, epochs=1, training=training)
    full = rule(saturated="full")  # type: ignore[call-arg]
    assert st.tune(snn, data, full, steps=STEPS, epochs=1, training=training).epochs
