"""Poisson input while a network trains: fresh noise, and yet a run that repeats and resumes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tuning_networks import small_ann

import spiketune as st
from spiketune.finetune import SLTT, Batch, Rule, SurrogateBPTT, Task, Update, tune
from spiketune.finetune.rules import prepare
from spiketune.snn import Poisson, SpikingNetwork

Data = tuple[Tensor, Tensor]
STEPS = 3


@pytest.fixture(scope="module")
def made() -> SpikingNetwork:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 8, 8, generator=generator)
    return st.to_snn(small_ann(), images, st.Binary(steps=STEPS, input="poisson"))


def spikes_of(snn: SpikingNetwork, seen: list[Tensor]) -> None:
    (unit,) = [module for module in snn.modules() if isinstance(module, Poisson)]

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            seen.append(output[0].detach())

    unit.register_forward_hook(keep)


def loader(data: Data) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*data), 16, shuffle=True)


def test_every_batch_and_image_meets_noise_of_its_own(made: SpikingNetwork, data: Data) -> None:
    snn, seen = deepcopy(made), list[Tensor]()
    spikes_of(snn, seen)
    same = data[0][:1].expand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)
    before = torch.get_rng_state()
    tune(snn, [same, same], SurrogateBPTT(), steps=STEPS, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(seen) == 4 and seen[0].shape == (STEPS, 8, 1, 8, 8)
    draws = [image for batch in seen for image in batch.unbind(1)]
    for number, draw in enumerate(draws):
        assert not any(torch.equal(draw, other) for other in draws[:number])
    answers = snn(data[0])
    assert torch.equal(snn(data[0]), answers)


@pytest.mark.parametrize("rule", [SurrogateBPTT(), SLTT(k=2)], ids=lambda rule: type(rule).__name__)
def test_a_run_resumed_within_an_epoch_draws_what_it_would_have_drawn(
    made: SpikingNetwork, data: Data, tmp_path: Path, rule: Rule
) -> None:
    use: dict[str, Any] = {"rule": rule, "steps": STEPS, "epochs": 2, "seed": 7}

    def stop(done: Update) -> None:
        if (done.epoch, done.batch) == (2, 2):
            raise KeyboardInterrupt

    whole, stopped, resumed, other = (deepcopy(made) for _ in range(4))
    tune(whole, loader(data), **use)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        tune(stopped, loader(data), checkpoint=path, checkpoint_every=1, on_batch=stop, **use)
    torch.rand(5)
    tune(resumed, loader(data), checkpoint=path, resume=True, **use)
    for found, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)
    # Not for want of noise: in a fixed order another seed still trains other weights.
    for snn, seed in ((whole, 0), (other, 1)):
        snn.load_state_dict(made.state_dict())
        tune(snn, [data], **{**use, "seed": seed})
    assert not torch.equal(next(whole.parameters()), next(other.parameters()))


def test_what_is_computed_again_meets_the_same_noise(made: SpikingNetwork, data: Data) -> None:
    found = []
    for again in ({}, {"recompute_blocks": 2}, {"recompute_steps": 1}):
        snn = deepcopy(made).train()
        task = Task(steps=STEPS, criterion=lambda outputs, _: outputs.square().sum())
        learn = prepare(snn, SurrogateBPTT(**again), task)
        torch.manual_seed(5)
        learn(Batch(*data))
        found.append([p.grad for p in snn.parameters() if p.grad is not None])
    for other in found[1:]:
        for one, gradient in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, gradient, rtol=1e-5, atol=1e-6)
