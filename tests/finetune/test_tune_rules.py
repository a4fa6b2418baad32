"""The seam: a new rule is one dataclass and one function, and may run the network its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    register_rule,
    rules,
    tune,
)
from spiketune.snn import SpikingNetwork, State, Triangle
from spiketune.snn.chunk import Moment, States

Build = Callable[..., SpikingNetwork]


@dataclass(frozen=True, kw_only=True)
class Online(Rule):
    """Go backward after every step and carry no gradient from one step to the next."""


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(rules._PREPARE)

    @register_rule(Online)
    def online(snn: SpikingNetwork, rule: Online, task: Task) -> Learn:
        def learn(batch: Batch) -> Outcome:
            states: States = {}
            total = loss = torch.zeros(())
            for _ in range(task.steps):
                stem = snn.program.stem(batch.images)
                outputs, states = snn.program.run(stem, states, Moment(1))
                states = {
                    name: state._replace(membrane=state.membrane.detach())
                    for name, state in states.items()
                    if isinstance(state, State)
                }
                now = task.criterion(outputs, batch) / task.steps
                task.backward(now)
                loss, total = loss + now.detach(), total + outputs[0].detach()
            return Outcome(loss, total / task.steps)

        return learn

    yield
    rules._PREPARE.clear()
    rules._PREPARE.update(before)


def tuned(snn: SpikingNetwork, data: tuple[Tensor, Tensor], rule: Rule, steps: int) -> Tensor:
    tune(snn, [data] * 3, rule, steps=steps, epochs=2)
    return torch.cat([parameter.detach().flatten() for parameter in snn.parameters()])


def test_a_rule_that_goes_backward_itself(build: Build, data: tuple[Tensor, Tensor]) -> None:
    bptt = SurrogateBPTT(surrogate=Triangle(), train_thresholds=False)
    one_step = tuned(build(), data, Online(), 1)
    torch.testing.assert_close(one_step, tuned(build(), data, bptt, 1), rtol=0, atol=1e-6)
    three_steps = tuned(build(), data, Online(), 3)
    assert (three_steps - tuned(build(), data, bptt, 3)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["if", "signed", "lif"])
def test_answer_is_the_networks_own(build: Build, data: tuple[Tensor, Tensor], kind: str) -> None:
    snn = build(kind)
    torch.testing.assert_close(snn(data[0], 8), snn(data[0]))
    torch.testing.assert_close(snn(data[0], 3), snn.unroll(data[0], 3)[-1])


def test_answer_counts_driven_steps_only(build: Build, data: tuple[Tensor, Tensor]) -> None:
    snn = build()
    snn.drive = 2
    torch.testing.assert_close(snn(data[0], 5), snn.unroll(data[0], 5)[-1])
