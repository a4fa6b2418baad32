"""Spikes kept as bytes under the rules that train binary neurons alone, through all steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from packed_runs import STEPS, gradients, held
from torch import Tensor

from spiketune.finetune import DIET, NA, STDB, Exponential, Rule, TuneError
from spiketune.snn import HardReset, SpikingNetwork

Build = Callable[..., SpikingNetwork]
Data = tuple[Tensor, Tensor]
RULES: list[STDB | DIET | NA] = [
    STDB(),
    STDB(slope=Exponential(silence=1), leak=0.9),
    DIET(),
    NA(),
    NA.reference(),
]


def packing(rule: STDB | DIET | NA) -> Rule:
    return replace(rule, pack_spikes=True)


def network(build: Build, kind: str, reset: str) -> SpikingNetwork:
    snn = build(kind)
    if reset == "hard":
        for _, neuron in snn.neurons():
            neuron.firing = replace(neuron.firing, reset=HardReset(to=0.01))
    return snn


@pytest.mark.parametrize("kind", ["if", "lif"])
@pytest.mark.parametrize(
    ("rule", "reset"),
    [(rule, reset) for rule in RULES for reset in ("soft", "hard")[: 1 + (rule != DIET())]],
    ids=str,
)
def test_gradients_are_the_same(
    build: Build, data: Data, kind: str, rule: STDB | DIET | NA, reset: str
) -> None:
    expected = gradients(network(build, kind, reset), rule, data[0])
    found = gradients(network(build, kind, reset), packing(rule), data[0])
    assert found.keys() == expected.keys()
    assert len(found) == 6 + 4 * isinstance(rule, DIET)  # weights and biases; thresholds and leaks
    for name, gradient in found.items():
        assert bool(gradient.any()), name
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_spike_takes_one_byte_of_four(build: Build, data: Data, rule: STDB | DIET | NA) -> None:
    images = data[0]
    floats, packed = (held(build(), one, images) for one in (rule, packing(rule)))
    neurons, thresholds = 4 * 16 + 6 * 16, 4 + 6
    assert floats - packed == (4 - 1) * STEPS * len(images) * neurons - 4 * thresholds


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_half_precision_is_refused(build: Build, data: Data, rule: STDB | DIET | NA) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TuneError, match="float32"):
        gradients(build(), packing(rule), data[0])
