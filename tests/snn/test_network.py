"""A network over time: chunks, batches, copies, memory, and what is computed how often."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from snn_networks import Residual, dyadic, dyadic_images, spiking
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spiketune.snn import (
    IF,
    Neuron,
    SignedIF,
    SpiketuneError,
    SpikingNetwork,
)

STEPS = 11
neurons = pytest.mark.parametrize("neuron", [IF, SignedIF])


def residual(neuron: type[Neuron] = IF, drive: int | None = None) -> SpikingNetwork:
    """A network whose every sum is exact, so that equal means equal on any machine."""
    net = dyadic(Residual())
    return spiking(net, dyadic_images(2, 1, 8, 8), neuron, steps=STEPS, drive=drive)


@torch.no_grad()
def simulated(ann: Residual, snn: SpikingNetwork, x: Tensor, steps: int) -> Tensor:
    """Return the curve by a plain loop over steps and neurons, binary spikes."""
    thetas = [unit.threshold for _, unit in snn.neurons()]
    membranes: list[Any] = [0.5 * theta for theta in thetas]

    def spike(place: int, current: Tensor) -> Tensor:
        v = membranes[place] + current
        s = (v >= thetas[place]).to(v.dtype)
        membranes[place] = v - thetas[place] * s
        return thetas[place] * s

    total, curve = torch.zeros(()), []
    for step in range(1, steps + 1):
        a = spike(0, ann.first(x))
        b = spike(1, ann.second(a))
        c = spike(2, ann.third(b) + b)
        d = spike(3, ann.hidden(nn.functional.avg_pool2d(c, 2).flatten(1)))
        total = total + ann.head(d)
        curve.append(total / step)
    return torch.stack(curve)


@torch.no_grad()
def test_the_curve_equals_a_plain_loop_over_the_steps() -> None:
    ann, x = Residual(), dyadic_images(3, 1, 8, 8)
    snn = spiking(dyadic(ann), x, IF, steps=STEPS)
    expected = simulated(ann, snn, x, STEPS)
    assert expected.diff(dim=0).abs().sum() > 0
    assert torch.equal(snn.unroll(x), expected)


@neurons
@pytest.mark.parametrize("chunk", [1, 7, 8])
@pytest.mark.parametrize("drive", [None, 5])
@torch.no_grad()
def test_chunks_change_nothing(neuron: type[Neuron], chunk: int, drive: int | None) -> None:
    snn, x = residual(neuron, drive), dyadic_images(3, 1, 8, 8)
    assert torch.equal(snn.unroll(x, chunk=chunk), snn.unroll(x, chunk=STEPS))
    assert torch.equal(snn.unroll(x, chunk=chunk), snn.unroll(x))


@neurons
def test_keeping_gradients_changes_no_answer(neuron: type[Neuron]) -> None:
    snn, x = residual(neuron), dyadic_images(3, 1, 8, 8)
    with torch.no_grad():
        without = snn.unroll(x)
    assert torch.equal(snn.unroll(x), without)


@neurons
@pytest.mark.parametrize("drive", [None, 4])
@torch.no_grad()
def test_forward_is_the_end_of_the_curve_and_starts_afresh(
    neuron: type[Neuron], drive: int | None
) -> None:
    snn, x = residual(neuron, drive), dyadic_images(3, 1, 8, 8)
    end = snn.unroll(x)[-1]
    assert torch.equal(snn(x), end)
    snn(dyadic_images(7, 1, 8, 8))
    assert torch.equal(snn(x), end)
    assert torch.equal(snn.unroll(x, 40)[STEPS - 1], end)


@neurons
@torch.no_grad()
def test_an_image_does_not_see_its_batch(neuron: type[Neuron]) -> None:
    snn, x = residual(neuron), dyadic_images(6, 1, 8, 8)
    together = snn.unroll(x)
    alone = torch.cat([snn.unroll(image.unsqueeze(0)) for image in x], 1)
    assert torch.equal(together, alone)
    order = torch.randperm(6)
    assert torch.equal(snn.unroll(x[order]), together[:, order])


@torch.no_grad()
def test_copies_are_equal_and_apart() -> None:
    snn, x = residual(SignedIF), dyadic_images(3, 1, 8, 8)
    before = snn.unroll(x)
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(twin.unroll(x), before)
        assert twin.state_dict().keys() == snn.state_dict().keys()
        for parameter in twin.parameters():
            parameter.mul_(2)
        assert torch.equal(snn.unroll(x), before)
    assert not torch.equal(twin.unroll(x), before)


def test_a_pickle_keeps_what_trains_and_the_mode() -> None:
    snn = residual()
    for index, parameter in enumerate(snn.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    again = pickle.loads(pickle.dumps(snn.train()))
    assert again.training
    wanted = {name: p.requires_grad for name, p in snn.named_parameters()}
    assert {name: p.requires_grad for name, p in again.named_parameters()} == wanted


@torch.no_grad()
def test_state_never_enters_the_state_dict() -> None:
    snn, x = residual(SignedIF), dyadic_images(3, 1, 8, 8)
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    snn(x)
    after = snn.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


class Convolutions(TorchDispatchMode):
    """Counts convolutions by output channels and batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: Counter[tuple[tuple[int, ...], int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch.ops.aten.convolution.default:
            self.batches[tuple(args[1].shape), args[0].shape[0]] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_the_stem_is_computed_once_and_the_body_chunk_by_chunk() -> None:
    snn, x = residual(), dyadic_images(3, 1, 8, 8)
    with Convolutions() as counted:
        snn.unroll(x, 10, chunk=4)
    stem, body = (4, 1, 3, 3), (4, 4, 3, 3)
    assert counted.batches == {(stem, 3): 1, (body, 12): 4, (body, 6): 2}


@torch.no_grad()
def test_nothing_longer_than_a_chunk_is_held_in_inference() -> None:
    snn, x = residual(), dyadic_images(2, 1, 8, 8)
    lengths: dict[str, list[int]] = {}
    snn.unroll(x, 20, monitor=lambda name, out: lengths.setdefault(name, []).append(len(out)))
    assert set(lengths) == {name for name, _ in snn.neurons()}
    assert all(found == [8, 8, 4] for found in lengths.values())


@torch.no_grad()
def test_driving_forever_and_for_all_steps_are_the_same() -> None:
    x = dyadic_images(2, 1, 8, 8)
    torch.manual_seed(1)
    always = residual(SignedIF)
    torch.manual_seed(1)
    until_the_end = residual(SignedIF, drive=STEPS)
    assert torch.equal(always.unroll(x), until_the_end.unroll(x))


@torch.no_grad()
def test_the_ann_inside_is_the_network_it_came_from() -> None:
    ann, x = Residual(), dyadic_images(3, 1, 8, 8)
    snn = spiking(dyadic(ann), x)
    assert torch.equal(snn.ann(x), ann(x))


@torch.no_grad()
def test_half_precision_layers_keep_single_membranes() -> None:
    snn = spiking(Residual().eval(), torch.rand(2, 1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        curve = snn.unroll(torch.rand(2, 1, 8, 8))
    assert curve.dtype == torch.float32 and bool(curve.isfinite().all())


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(2, 3, 8, 8), r"made for|not a batch"),
        (torch.rand(2, 1, 9, 8), r"made for|not a batch"),
        (torch.rand(1, 8, 8), r"made for|not a batch"),
        (torch.full((2, 1, 8, 8), float("nan")), "NaN"),
        (torch.full((2, 1, 8, 8), float("inf")), "NaN"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_sentence(x: Tensor, words: str) -> None:
    snn = residual()
    for call in (snn, snn.unroll, snn.ann):
        with pytest.raises(SpiketuneError, match=words) as caught:
            call(x.double())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -3])
def test_less_than_one_step_is_refused(steps: int) -> None:
    snn = residual()
    with pytest.raises(SpiketuneError, match="at least 1"):
        snn.unroll(dyadic_images(1, 1, 8, 8), steps)
    for settings in ({"steps": steps}, {"steps": 4, "drive": steps}):
        with pytest.raises(SpiketuneError, match="at least 1"):
            SpikingNetwork(snn.net, input_shape=(1, 8, 8), **settings)


@neurons
def test_gradients_reach_every_weight_through_time(neuron: type[Neuron]) -> None:
    snn = residual(neuron)
    snn(dyadic_images(4, 1, 8, 8)).square().sum().backward()
    for name, parameter in snn.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert parameter.grad.any(), name
