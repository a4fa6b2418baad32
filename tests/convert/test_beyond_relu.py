"""Whatever is no ReLU runs on accumulated signals: the network inside, and it settles there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from convert_networks import Forward, around, conv, decibels, images
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.convert import Method
from spiketune.snn import register_function


def attention(m: Any, y: Tensor) -> Tensor:
    tokens = y.flatten(2).transpose(1, 2)
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return (weights @ tokens).transpose(1, 2).reshape(y.shape)


def fused_attention(m: Any, y: Tensor) -> Tensor:
    """As vision transformers write it: the images stand third in ``qkv``."""
    tokens = y.flatten(2).transpose(1, 2)
    qkv = m.a(tokens).reshape(y.shape[0], 64, 3, 2, 2).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    heads = functional.scaled_dot_product_attention(q, k, v)
    return heads.transpose(1, 2).reshape(tokens.shape).transpose(1, 2).reshape(y.shape)


def masked_attention(m: Any, y: Tensor) -> Tensor:
    rows = y.flatten(2)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    return functional.scaled_dot_product_attention(rows, rows, rows, mask).reshape(y.shape)


def both_halves(m: Any, y: Tensor) -> Tensor:
    first, second = torch.relu(torch.cat([y, 2 * y - 0.1], 0)).chunk(2, 0)
    return first * 2 - second


TABLE: dict[str, tuple[Forward, dict[str, Callable[[], nn.Module]]]] = {
    "gelu": (lambda m, y: functional.gelu(m.a(y)), {"a": conv}),
    "silu": (lambda m, y: functional.silu(m.a(y)), {"a": conv}),
    "hardswish": (lambda m, y: functional.hardswish(m.a(y)), {"a": conv}),
    "leaky relu": (lambda m, y: functional.leaky_relu(m.a(y)), {"a": conv}),
    "prelu": (lambda m, y: m.b(m.a(y)), {"a": conv, "b": nn.PReLU}),
    "elu": (lambda m, y: functional.elu(m.a(y)), {"a": conv}),
    "tanh": (lambda m, y: m.a(y).tanh(), {"a": conv}),
    "power": (lambda m, y: y**2, {}),
    "absolute value": (lambda m, y: m.a(y).abs(), {"a": conv}),
    "signed clamp": (lambda m, y: m.a(y).clamp(-0.1, 0.2), {"a": conv}),
    "shifted clamp": (lambda m, y: y.clamp(0.2, 0.4), {}),
    "only a ceiling": (lambda m, y: m.a(y).clamp(max=0.0), {"a": conv}),
    "softmax": (lambda m, y: y.softmax(1), {}),
    "layer norm": (lambda m, y: functional.layer_norm(y, [8, 8]), {}),
    "group norm": (lambda m, y: m.a(y), {"a": lambda: nn.GroupNorm(2, 4)}),
    "sigmoid gate": (lambda m, y: y * torch.sigmoid(y.mean((2, 3), keepdim=True)), {}),
    "attention": (attention, {}),
    "fused attention": (fused_attention, {"a": lambda: nn.Linear(4, 12)}),
    "masked attention": (masked_attention, {}),
    "product of two": (lambda m, y: y * m.a(y), {"a": conv}),
    "quotient of two": (lambda m, y: y / (1 + y), {}),
    "square by product": (lambda m, y: y * y, {}),
    "division by": (lambda m, y: 1 / (y + 1), {}),
    "pad with ones": (lambda m, y: functional.pad(y, (1, 1, 1, 1), value=1.0), {}),
    "pad by reflection": (lambda m, y: functional.pad(y, (1, 1, 1, 1), mode="reflect"), {}),
    "batch moved": (
        lambda m, y: torch.relu(m.a(y).permute(1, 0, 2, 3)).permute(1, 0, 2, 3),
        {"a": conv},
    ),
    "both halves": (both_halves, {}),
    "reordered channels": (lambda m, y: y[:, torch.tensor([3, 1, 2, 0])] - y.flip(1) / 2, {}),
    "maximum": (lambda m, y: torch.maximum(y, m.a(y)), {"a": conv}),
    "maximum over a dimension": (lambda m, y: y - y.amax(1, keepdim=True), {}),
    "max-pool of a linear layer": (
        lambda m, y: functional.max_pool2d(m.a(y), 3, 2, 1, ceil_mode=True),
        {"a": conv},
    ),
    "bilinear": (lambda m, y: functional.interpolate(y, scale_factor=2.0, mode="bilinear"), {}),
}

METHODS: dict[str, Method] = {
    "differential": st.Graded(levels=16, spikes_per_step=1),
    "several at once": st.Graded(levels=16, spikes_per_step=3),
    "rate": st.Graded(coding="rate", spikes_per_step=1),
    "ternary": st.Ternary(threshold=st.Max()),
}


def network(name: str) -> nn.Module:
    body, layers = TABLE[name]
    return around(
        lambda m, y: torch.relu(m.c(body(m, y))),
        c=conv(),
        **{key: make() for key, make in layers.items()},
    ).double()


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_functions_settle_at_the_network(name: str, method: str) -> None:
    ann, x = network(name), images(dtype=torch.float64)
    snn = st.to_snn(ann, x, METHODS[method])
    few, expected = x[:3], ann(x[:3])
    torch.testing.assert_close(snn.ann(few), expected, rtol=1e-12, atol=1e-12)
    steps = 12 if snn.drive else 128
    curve = snn.unroll(few, steps)
    assert decibels(expected, curve[-1]) > (75 if snn.drive else 40)
    assert decibels(expected, curve[-1]) > decibels(expected, curve[0])
    torch.testing.assert_close(snn.unroll(few, 9, chunk=2), curve[:9], rtol=1e-12, atol=1e-12)
    alone = torch.cat([snn.unroll(image[None], 9) for image in few], 1)
    torch.testing.assert_close(alone, curve[:9], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gelu", "fused attention", "batch moved", "both halves"])
@torch.no_grad()
def test_drive_of_several_steps_settles_too(name: str) -> None:
    ann, x = network(name), images(dtype=torch.float64)
    snn = st.to_snn(ann, x, st.Ternary(drive=8, threshold=st.Max()))
    curve = snn.unroll(x, 200)
    assert decibels(ann(x), curve[-1]) > 15
    assert torch.equal(curve[-1], curve[-20]), "not quiet yet"


def test_a_batch_size_held_as_a_number_is_refused() -> None:
    ann = around(lambda m, y: torch.relu(m.c(y.flatten(1).reshape(len(y), 4, 8, 8))), c=conv())
    with pytest.raises(st.ConversionError, match="one batch size"):
        st.to_snn(ann, images(), st.Graded())


@torch.library.custom_op("spiketune_tests::wave", mutates_args=())
def wave(x: Tensor, pace: float) -> Tensor:
    return torch.sin(pace * x)


@wave.register_fake
def _(x: Tensor, pace: float) -> Tensor:
    return torch.empty_like(x)


@torch.no_grad()
def test_an_operation_of_ones_own_is_refused_until_it_is_registered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ann = around(lambda m, y: m.c(wave(m.a(y), 3.0)), a=conv(), c=conv()).double()
    x = images(dtype=torch.float64)
    with pytest.raises(st.ConversionError, match=r"register_function\(torch.ops.spiketune_tests"):
        st.to_snn(ann, x, st.Graded())
    register_function(torch.ops.spiketune_tests.wave.default)
    snn = st.to_snn(ann, x, st.Graded(levels=16, spikes_per_step=1))
    torch.testing.assert_close(snn.ann(x), ann(x), rtol=1e-12, atol=1e-12)
    assert decibels(ann(x), snn.unroll(x, 12)[-1]) > 75
    path = st.save(snn, tmp_path_factory.mktemp("own") / "own.safetensors")
    assert torch.equal(st.load(path)(x), snn(x))
