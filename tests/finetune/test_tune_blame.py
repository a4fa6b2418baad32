"""A run that breaks down names the layer and what to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from spiketune.finetune import (
    Batch,
    Learn,
    Outcome,
    Rule,
    SurrogateBPTT,
    Task,
    Training,
    TuneError,
    register_rule,
    tune,
)
from spiketune.finetune.blame import blame, layers
from spiketune.finetune.rules import outputs
from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Breaking(Rule):
    """Learn plainly, but spoil something once the given number of updates is made."""

    what: str
    layer: str = ""
    after: int = 2


@register_rule(Breaking)
def breaking(snn: SpikingNetwork, rule: Breaking, task: Task) -> Learn:
    done = 0

    def learn(batch: Batch) -> Outcome:
        nonlocal done
        sent = outputs(snn, batch.images, task.steps)
        loss = task.criterion(sent, batch)
        if done == rule.after and rule.what == "loss":
            loss = loss * 1e5
        task.backward(loss)
        if done == rule.after and rule.what == "gradient":
            # It comes from behind and spoils all before it.
            for name, parameters in layers(snn):
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.fill_(torch.nan)
                if name == rule.layer:
                    break
        done += 1
        return Outcome(loss.detach(), snn.read(sent.detach()))

    return learn


def broken(snn: SpikingNetwork, data: Data, rule: Rule, **settings: Any) -> str:
    with pytest.raises(TuneError) as caught:
        tune(snn, [data] * 4, rule, steps=2, epochs=1, training=Training(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layers_come_in_the_order_in_which_they_are_computed(build: Build) -> None:
    names = [name for name, _ in layers(build())]
    assert names == ["0", "act.relu", "2", "act.relu_1", "5"]
    assert sum(len(found) for _, found in layers(build())) == len(list(build().parameters()))


@pytest.mark.parametrize("layer", ["0", "2", "5"])
def test_a_gradient_is_named_where_it_begins(build: Build, data: Data, layer: str) -> None:
    said = broken(build(), data, Breaking(what="gradient", layer=layer), clip_grad=None)
    assert "epoch 1, batch 3: the loss is " in said and "norm nan" in said
    assert f"the gradient stops being finite at layer {layer};" in said
    assert "lower it, for example Training(learning_rate=0.0001)" in said
    assert "clip_grad=1.0" in said and "wider surrogate" in said


def test_a_loss_that_explodes_names_the_largest_gradient(build: Build, data: Data) -> None:
    snn = build()
    with torch.no_grad():
        snn.net.get_parameter("5.weight").mul_(0.01)  # little passes on to what is before it
    said = broken(snn, data, Breaking(what="loss"))
    assert "batch 3" in said and "is that of layer 5" in said and "clip_grad" not in said
    never = Training(explodes_at=None)
    tune(build(), [data] * 4, Breaking(what="loss"), steps=2, epochs=1, training=never)


def test_the_weights_of_the_update_before_stay(build: Build, data: Data) -> None:
    snn, kept = build(), build()
    broken(snn, data, Breaking(what="gradient", layer="5"))
    tune(kept, [data] * 2, Breaking(what=""), steps=2, epochs=2)
    assert all(bool(value.isfinite().all()) for value in snn.state_dict().values())
    assert all(parameter.grad is None for parameter in snn.parameters())


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("0.weight", torch.nan, "the weights of layer 0 are not finite"),
        ("5.bias", torch.inf, "the weights of layer 5 are not finite"),
        ("0.weight", 3e38, "the values that layer 0 computes are not finite"),
        ("2.weight", 3e38, "the values that layer 2 computes are not finite"),
        ("5.weight", 3e38, "the values that layer 5 computes are not finite"),
    ],
)
def test_values_are_named_where_they_begin(
    build: Build, data: Data, parameter: str, value: float, said: str
) -> None:
    snn = build()
    with torch.no_grad():
        snn.net.get_parameter(parameter).fill_(value)
    assert blame(snn, data[0].abs() + 10, 4, nullcontext()) == said
    assert not any(module._forward_pre_hooks for module in snn.modules())


class Cheating:
    """A loader whose length and passes differ."""

    def __init__(self, batches: list[Data], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Data]:
        return iter(self.batches)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (5, "epoch 1: the loader announced 5 batches and ended after 3; make its len"),
        (2, "epoch 1: the loader announced 2 batches and yields at least 3"),
    ],
)
def test_a_loader_that_yields_other_than_it_says(
    build: Build, data: Data, length: int, message: str
) -> None:
    with pytest.raises(TuneError, match=message):
        tune(build(), Cheating([data] * 3, length), SurrogateBPTT(), steps=1, epochs=1)
    with pytest.raises(TuneError, match=message.replace("epoch 1", "validation")):
        tune(
            build(), [data], SurrogateBPTT(), steps=1, epochs=1,
            validate=Cheating([data] * 3, length),
        )  # fmt: skip


def test_what_goes_wrong_in_a_real_run_is_found(build: Build, data: Data) -> None:
    wild: dict[str, Any] = {"learning_rate": 1e38, "clip_grad": None, "warmup": 0.0}
    said = broken(build(), data, SurrogateBPTT(), optimizer="sgd", **wild)
    assert "epoch 1, batch 2" in said and "Training(learning_rate=1e+37)" in said
    assert any(f"the values that layer {name} computes are not finite" in said for name in "025")
