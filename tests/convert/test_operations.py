"""One small network an operation: its limit is the network, while the image acts and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_networks import Forward, around, conv, decibels, images
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st

INFINITY = float("inf")


def counted_places(m: Any, y: Tensor) -> Tensor:
    """As EdgeNeXt makes its position code: a mask made of sizes, cast and summed up."""
    places = ~torch.zeros(y.shape[0], 8, 8).to(device=y.device, dtype=torch.bool)
    return y * places.cumsum(1, dtype=torch.float32).unsqueeze(1).to(y.dtype) / 8


def masked_scores(m: Any, y: Tensor) -> Tensor:
    rows = y.flatten(2)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    scores = (m.a(y).flatten(2) @ rows.transpose(1, 2)).masked_fill(hidden, -INFINITY)
    return (scores.softmax(-1) @ rows).reshape(y.shape)


def stretched_by_a_constant(m: Any, y: Tensor) -> Tensor:
    """A sum that gets its shape from the constant, also when that acts no longer."""
    tokens = y.mean((2, 3)).unsqueeze(1) + torch.ones(5, 1)
    return y + tokens.sum(1)[:, :, None, None] / 9


def without_autocast(m: Any, y: Tensor) -> Tensor:
    z = m.a(y)
    with torch.autocast("cpu", enabled=False):
        parts = z.relu().chunk(2, 1)
        first, second = parts[0] * 2, parts[1] + 1
    return torch.cat([first, second], 1)


def products(m: Any, y: Tensor) -> Tensor:
    rows = y.flatten(2)
    return torch.einsum("bcn,bdn->bcd", rows, m.a(y).flatten(2))[..., None].softmax(1)


TABLE: dict[str, tuple[Forward, dict[str, Callable[[], nn.Module]]]] = {
    "counted places": (counted_places, {}),
    "masked scores": (masked_scores, {"a": conv}),
    "max-pool padded with -inf": (
        lambda m, y: functional.max_pool2d(functional.pad(y, (0, 1, 0, 1), value=-INFINITY), 3, 2),
        {},
    ),
    "stretched by a constant": (stretched_by_a_constant, {}),
    "whole numbers added": (lambda m, y: y + torch.arange(8), {}),
    "one minus twice": (lambda m, y: torch.rsub(y, 1, alpha=2), {}),
    "one minus": (lambda m, y: 1 - y, {}),
    "largest of a dimension": (lambda m, y: y - y.max(1, keepdim=True)[0] / 2, {}),
    "without autocast": (without_autocast, {"a": conv}),
    "einsum": (products, {"a": conv}),
    "products added": (
        lambda m, y: torch.baddbmm(y.mean(1), y.mean(1), y[:, 0], beta=0.5).unsqueeze(1),
        {"c": lambda: conv(1)},
    ),
    "product added": (lambda m, y: torch.addcmul(y, y, m.a(y), value=0.5), {"a": conv}),
    "cumulative sum": (lambda m, y: y.cumsum(2), {}),
    "bicubic": (lambda m, y: functional.interpolate(y, scale_factor=2.0, mode="bicubic"), {}),
    "deviation": (lambda m, y: y.std((2, 3), keepdim=True) + y, {}),
    "variance": (lambda m, y: y.var((2, 3), keepdim=True) + y, {}),
    "unit length": (lambda m, y: functional.normalize(y + 0.1, dim=1), {}),
    "rms norm": (lambda m, y: functional.rms_norm(y, [8]), {}),
    "where": (lambda m, y: torch.where(torch.eye(8) > 0, y, m.a(y)), {"a": conv}),
    "softplus": (lambda m, y: functional.softplus(m.a(y)), {"a": conv}),
    "mish": (lambda m, y: functional.mish(m.a(y)), {"a": conv}),
    "selu": (lambda m, y: functional.selu(m.a(y)), {"a": conv}),
    "celu": (lambda m, y: functional.celu(m.a(y)), {"a": conv}),
    "hard sigmoid": (lambda m, y: functional.hardsigmoid(m.a(y)), {"a": conv}),
    "log softmax": (lambda m, y: y.log_softmax(1), {}),
    "exponential and back": (lambda m, y: (m.a(y).exp() + 1).log().sqrt(), {"a": conv}),
    "waves": (lambda m, y: y.sin() * y.cos(), {}),
    "tensor powers": (lambda m, y: torch.pow(y + 1, m.a(y)), {"a": conv}),
    "reciprocal roots": (lambda m, y: (y + 1).rsqrt() + (y + 1).reciprocal(), {}),
    "least of two": (lambda m, y: torch.minimum(y, m.a(y)) + y.amin(1, keepdim=True), {"a": conv}),
}


def network(name: str) -> nn.Module:
    body, layers = TABLE[name]
    made = {"c": conv, **layers}
    return around(
        lambda m, y: torch.relu(m.c(body(m, y))), **{key: make() for key, make in made.items()}
    ).double()


@pytest.mark.parametrize("coding", ["differential", "rate"])
@pytest.mark.parametrize("name", TABLE)
@torch.no_grad()
def test_its_limit_is_the_network(name: str, coding: str, tmp_path: Path) -> None:
    ann, x = network(name), images(dtype=torch.float64)
    # Spikes as fine as need be; after the first step some of a message is still to come.
    method = st.Graded(levels=50, coding=coding)  # type: ignore[arg-type]
    snn = st.to_snn(ann, x, method)
    expected = ann(x[:3])
    torch.testing.assert_close(snn.ann(x[:3]), expected, rtol=1e-9, atol=1e-9)
    curve = snn.unroll(x[:3], 24)
    limit = 120 if coding == "differential" else 60
    assert decibels(expected, curve[-1]) > max(limit, decibels(expected, curve[0]) + 3)
    torch.testing.assert_close(snn.unroll(x[:3], 7, chunk=2), curve[:7], rtol=1e-9, atol=1e-9)
    loaded = st.load(st.save(snn, tmp_path / "network.safetensors"))
    assert torch.equal(loaded(x[:3], 3), snn(x[:3], 3))


def in_autocast(m: Any, y: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.relu(m.c(y)).float()


def compared(m: Any, y: Tensor) -> Tensor:
    rows = y.flatten(1)
    return ((rows @ rows.T).softmax(-1) @ rows).reshape(y.shape)


REFUSED: dict[str, tuple[Forward, str]] = {
    "truth values": (lambda m, y: y * y.to(torch.bool), "no rule for to"),
    "whole numbers": (lambda m, y: y * m.c(y).to(torch.int64), "no rule for to"),
    "mixed precision": (in_autocast, "mixed precision"),
    "images compared": (compared, "compares the images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_add_up_is_refused(name: str) -> None:
    body, words = REFUSED[name]
    with pytest.raises(st.ConversionError, match=words):
        st.to_snn(around(body, c=conv()), images(), st.Graded())


class Unsaved(nn.Module):
    """Holds what the graph needs and a checkpoint does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(3, 2)
        self.register_buffer("order", torch.tensor([3, 0, 2]), persistent=False)
        self.register_buffer("offset", torch.rand(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))[:, self.order] + self.offset)


@torch.no_grad()
def test_buffers_that_no_checkpoint_holds_are_saved(tmp_path: Path) -> None:
    x = torch.rand(9, 5)
    snn = st.to_snn(Unsaved(), x, st.Graded())
    assert torch.equal(st.load(st.save(snn, tmp_path / "network.safetensors"))(x), snn(x))


@torch.no_grad()
def test_a_loaded_network_needs_its_file_no_longer(tmp_path: Path) -> None:
    x = torch.rand(9, 5)
    snn = st.to_snn(Unsaved(), x, st.Graded())
    path = st.save(snn, tmp_path / "network.safetensors")
    loaded = st.load(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(loaded(x), snn(x))
