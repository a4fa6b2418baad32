"""Activations computed again: the gradients of keeping them all, for less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Batch, Criterion, SurrogateBPTT, Task, TuneError
from spiketune.finetune.recompute import Scratch
from spiketune.finetune.rules import prepare
from spiketune.snn import PSN, SpikingNetwork, Triangle

Build = Callable[..., SpikingNetwork]
WAYS = [
    SurrogateBPTT(recompute_blocks=2),
    SurrogateBPTT(recompute_steps=2),
    SurrogateBPTT(recompute_steps=3),
    SurrogateBPTT(recompute_blocks=2, recompute_steps=2),
]


def criterion(outputs: Tensor, batch: Batch) -> Tensor:
    """No step's gradient is that of another."""
    weights = torch.arange(1.0, 1 + len(outputs)).view(-1, 1, 1)
    return (weights * outputs).sum(0).square().mean()


def gradients(
    snn: SpikingNetwork, rule: SurrogateBPTT, images: Tensor, loss: Criterion = criterion
) -> dict[str, Tensor]:
    snn.zero_grad()
    task = Task(steps=7, criterion=loss)
    prepare(snn, rule, task)(Batch(images, torch.zeros(len(images))))
    return {name: p.grad.clone() for name, p in snn.named_parameters() if p.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert expected[name].abs().sum() > 0, name
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", WAYS)
@pytest.mark.parametrize("kind", ["if", "lif", "signed"])
def test_gradients_stay(
    build: Build, data: tuple[Tensor, Tensor], kind: str, rule: SurrogateBPTT
) -> None:
    snn, x = build(kind).double(), data[0].double()
    same(gradients(snn, rule, x), gradients(snn, SurrogateBPTT(), x))


def test_gradients_through_the_reset_pass_between_stretches_of_time(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    snn, x, wide = build("lif").double(), data[0].double(), Triangle(width=2.0)
    whole = gradients(snn, SurrogateBPTT(detach_reset=False, surrogate=wide), x)
    apart = SurrogateBPTT(detach_reset=False, surrogate=wide, recompute_steps=1)
    same(gradients(snn, apart, x), whole)


@pytest.mark.parametrize("rule", WAYS)
def test_where_the_image_acts_for_some_steps_only(rule: SurrogateBPTT) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(),
                        nn.Linear(8, 3))  # fmt: skip
    snn = st.to_snn(ann.eval(), torch.rand(32, 1, 3, 3), st.Graded()).double()
    assert snn.drive is not None
    x = torch.rand(4, 1, 3, 3).double()
    same(gradients(snn, rule, x), gradients(snn, SurrogateBPTT(), x))


def normed() -> SpikingNetwork:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for wide in (9, 8, 8):
        layers += [nn.Linear(wide, 8), nn.BatchNorm1d(8), nn.ReLU()]
    ann = nn.Sequential(*layers, nn.Linear(8, 3))
    for layer in ann:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.constant_(layer.weight, 2.0)
    return st.twin(ann, 7, (1, 3, 3)).double().train()


@pytest.mark.parametrize("blocks", [2, 3])
def test_batch_norm_moves_its_statistics_once(blocks: int) -> None:
    snn, x = normed(), torch.rand(16, 1, 3, 3).double()
    start = {name: buffer.clone() for name, buffer in snn.named_buffers()}
    expected = gradients(snn, SurrogateBPTT(), x)
    moved = {name: buffer.clone() for name, buffer in snn.named_buffers()}
    for name, buffer in snn.named_buffers():
        buffer.copy_(start[name])
    same(gradients(snn, SurrogateBPTT(recompute_blocks=blocks), x), expected)
    for name, buffer in snn.named_buffers():
        assert torch.equal(buffer, moved[name]), name
    assert snn.net.get_buffer("5.norm.num_batches_tracked") == 1
    assert not torch.equal(moved["net.5.norm.running_mean"], start["net.5.norm.running_mean"])


def test_buffers_come_back_as_they_were_even_after_an_error() -> None:
    norm = nn.BatchNorm1d(3)
    held = norm.running_mean
    with pytest.raises(RuntimeError), Scratch(norm):
        norm(torch.randn(4, 3))
        raise RuntimeError
    assert norm.running_mean is held and norm.num_batches_tracked == 0


def deep() -> SpikingNetwork:
    """Eight layers of neurons, all of the same size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(8):
        layers += [nn.Linear(9, 9), nn.ReLU()]
    return st.twin(nn.Sequential(*layers, nn.Linear(9, 3)), 16, (1, 3, 3))


@pytest.mark.parametrize(
    ("rule", "share"),
    [
        (SurrogateBPTT(recompute_blocks=4), 0.6),
        (SurrogateBPTT(recompute_steps=4), 0.5),
        (SurrogateBPTT(recompute_blocks=4, recompute_steps=4), 0.4),
    ],
)
def test_memory_shrinks(rule: SurrogateBPTT, share: float) -> None:
    snn, x = deep(), torch.rand(500, 1, 3, 3)
    peaks = []
    for way in (SurrogateBPTT(), rule):
        learn = prepare(snn, way, Task(steps=16, criterion=criterion))
        snn.zero_grad()
        with LiveMemory() as memory:
            learn(Batch(x, torch.zeros(500)))
        peaks.append(memory.peak)
    assert peaks[1] < share * peaks[0]


def test_kept_between_stretches_of_time_are_the_states_only() -> None:
    # Eight membranes of 500 x 9 numbers for each of the 7 stretches more, and 8 outputs of 3.
    snn, x = deep(), torch.rand(500, 1, 3, 3)
    peaks = []
    for steps in (4, 32):
        rule = SurrogateBPTT(recompute_steps=2)
        learn = prepare(snn, rule, Task(steps=steps, criterion=criterion))
        with LiveMemory() as memory:
            learn(Batch(x, torch.zeros(500)))
        peaks.append(memory.peak)
    states = 4 * 14 * 8 * 500 * 9
    assert states < peaks[1] - peaks[0] < 1.5 * states


def test_a_loss_of_membranes_sees_each_of_them_once(
    build: Build, data: tuple[Tensor, Tensor]
) -> None:
    found = []
    for rule in (SurrogateBPTT(), *WAYS):
        snn, training = build("lif").double(), st.Training(loss=st.RMP(), clip_grad=None)
        x, labels = data[0].double(), data[1]
        history = st.tune(snn, [(x, labels)] * 2, rule, steps=4, epochs=1, training=training)
        found.append((history.epochs[0].loss, torch.cat([p.flatten() for p in snn.parameters()])))
    for loss, weights in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-12)
        torch.testing.assert_close(weights, found[0][1], rtol=0, atol=1e-9)


def refuses(snn: SpikingNetwork, rule: SurrogateBPTT, *said: str) -> None:
    with pytest.raises(TuneError) as raised:
        prepare(snn, rule, Task(steps=4, criterion=criterion))
    for words in said:
        assert words in str(raised.value)


def test_what_would_save_nothing_is_refused(build: Build) -> None:
    refuses(build(), SurrogateBPTT(recompute_steps=4), "recompute_steps=4", "saves nothing")
    refuses(build(), SurrogateBPTT(recompute_blocks=3), "recompute_blocks=3", "at most 2")
    with pytest.raises(TuneError, match="recompute_blocks must be at least 2"):
        SurrogateBPTT(recompute_blocks=1)
    with pytest.raises(TuneError, match="recompute_steps must be at least 1"):
        SurrogateBPTT(recompute_steps=0)


def test_what_sees_all_steps_is_not_run_apart(build: Build) -> None:
    apart = SurrogateBPTT(recompute_steps=2)
    refuses(normed(), apart, "norm", "BatchNorm1d", "recompute_blocks")
    snn = build()
    node, _ = list(snn.neuron_nodes())[1]
    snn.net.set_submodule(str(node.target), PSN(torch.tensor(1.0), steps=4))
    snn.refresh()
    refuses(snn, apart, node.name, "PSN", "recompute_blocks")
