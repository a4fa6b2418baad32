"""The rewritten graph computes what the network computes, and spikes come to the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
import torchvision
from convert_networks import Forward, around, conv, decibels, images, wild
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.snn import SpikingNetwork

Layers = dict[str, Callable[[], nn.Module]]


def shared_conv(m: nn.Module, y: Tensor) -> Tensor:
    return torch.relu(m.n(m.c(torch.relu(m.k(m.c(y))))))


def batch_norm_1d(m: nn.Module, y: Tensor) -> Tensor:
    return torch.relu(m.n(m.c(y.flatten(1)))).view(-1, 4, 1, 1)


def concatenated(m: nn.Module, y: Tensor) -> Tensor:
    return torch.relu(m.c(functional.max_pool2d(torch.cat([y, torch.relu(m.n(y))], 1), 2)))


# The forward, its layers, and what the report says of each BatchNorm and max-pool.
TABLE: dict[str, tuple[Forward, Layers, list[str]]] = {
    "norm after conv": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4)},
        ["folded"],
    ),
    "norm after conv without bias": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": lambda: conv(bias=False), "n": lambda: nn.BatchNorm2d(4)},
        ["folded"],
    ),
    "norm after grouped conv": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": lambda: conv(groups=2), "n": lambda: nn.BatchNorm2d(4, eps=0.01)},
        ["folded"],
    ),
    "norm after depthwise conv": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": lambda: conv(outputs=8, groups=4), "n": lambda: nn.BatchNorm2d(8)},
        ["folded"],
    ),
    "norm after conv same": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": lambda: nn.Conv2d(4, 4, 3, padding="same"), "n": lambda: nn.BatchNorm2d(4)},
        ["folded"],
    ),
    "norm without affine": (
        lambda m, y: torch.relu(m.n(m.c(y))),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4, affine=False)},
        ["folded"],
    ),
    "norm after linear": (
        batch_norm_1d,
        {"c": lambda: nn.Linear(256, 4), "n": lambda: nn.BatchNorm1d(4)},
        ["folded"],
    ),
    "norm before conv": (
        lambda m, y: torch.relu(m.c(m.n(y))),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4)},
        ["linear"],
    ),
    "norm after sum": (
        lambda m, y: torch.relu(m.n(m.c(y) + y)),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4)},
        ["linear"],
    ),
    "norm beside a branch": (
        lambda m, y: (lambda z: torch.relu(m.n(z)) + torch.relu(z))(m.c(y)),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4)},
        ["linear"],
    ),
    "shared conv, two norms": (
        shared_conv,
        {"c": conv, "n": lambda: nn.BatchNorm2d(4), "k": lambda: nn.BatchNorm2d(4)},
        ["folded", "folded"],
    ),
    "two norms in series": (
        lambda m, y: torch.relu(m.k(m.n(m.c(y)))),
        {"c": conv, "n": lambda: nn.BatchNorm2d(4), "k": lambda: nn.BatchNorm2d(4)},
        ["folded", "folded"],
    ),
    "norm shared by two convs": (
        lambda m, y: torch.relu(m.n(m.k(torch.relu(m.n(m.c(y)))))),
        {"c": conv, "k": conv, "n": lambda: nn.BatchNorm2d(4)},
        ["folded", "folded"],
    ),
    "max-pool behind a neuron": (
        lambda m, y: m.c(functional.max_pool2d(y, 3, 2, 1)),
        {"c": conv},
        ["moved"],
    ),
    "max-pool behind a max-pool": (
        lambda m, y: m.c(functional.max_pool2d(functional.max_pool2d(y, 2), 2)),
        {"c": conv},
        ["moved", "moved"],
    ),
    "max-pool and a branch": (
        lambda m, y: m.c(functional.max_pool2d(y, 2)) + functional.avg_pool2d(y, 2),
        {"c": conv},
        ["moved"],
    ),
    "max-pool of a linear layer": (
        lambda m, y: torch.relu(m.c(functional.max_pool2d(m.n(y), 2))),
        {"c": conv, "n": conv},
        ["function"],
    ),
    "max-pool of a concatenation": (
        concatenated,
        {"c": lambda: conv(8), "n": conv},
        ["function"],
    ),
    "average pool": (
        lambda m, y: torch.relu(m.c(functional.avg_pool2d(y, 3, 2, 1))),
        {"c": conv},
        [],
    ),
    "adaptive pool": (
        lambda m, y: torch.relu(m.c(functional.adaptive_avg_pool2d(y, 3))),
        {"c": conv},
        [],
    ),
    "residual": (lambda m, y: torch.relu(m.c(torch.relu(m.n(y))) + y), {"c": conv, "n": conv}, []),
    "concatenation": (
        lambda m, y: torch.relu(m.c(torch.cat([y, torch.relu(m.n(y))], 1))),
        {"c": lambda: conv(8), "n": conv},
        [],
    ),
    "shuffled channels": (
        lambda m, y: m.c(y.view(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8)),
        {"c": lambda: conv(groups=2)},
        [],
    ),
    "split channels": (
        lambda m, y: torch.cat([y[:, :2], torch.relu(m.c(y[:, 2:]))], 1),
        {"c": lambda: conv(2, 2)},
        [],
    ),
    "scaled": (lambda m, y: torch.relu(m.c(y) * 0.5 / 2 + 0.1), {"c": conv}, []),
    "padded with zeros": (lambda m, y: m.c(functional.pad(y, (1, 0, 2, 1))), {"c": conv}, []),
    "dropout": (
        lambda m, y: torch.relu(m.c(functional.dropout(m.n(y), 0.5, m.training))),
        {"c": conv, "n": lambda: nn.Dropout2d(0.3)},
        [],
    ),
    "upsampled": (lambda m, y: m.c(functional.interpolate(y, scale_factor=2.0)), {"c": conv}, []),
    "transposed": (lambda m, y: torch.relu(m.c(y)), {"c": lambda: nn.ConvTranspose2d(4, 4, 2)}, []),
}


METHODS = {
    "binary": st.Binary(threshold=st.Max()),
    "ternary": st.Ternary(threshold=st.Max(), per="layer"),
}


@cache
def converted(name: str, method: str) -> tuple[nn.Module, SpikingNetwork]:
    torch.manual_seed(0)
    body, layers, _ = TABLE[name]
    ann = around(body, **{key: make() for key, make in layers.items()}).double()
    return ann, st.to_snn(ann, images(dtype=torch.float64), METHODS[method])


@pytest.mark.parametrize("name", TABLE)
@torch.no_grad()
def test_the_graph_inside_equals_the_network(name: str) -> None:
    ann, snn = converted(name, "binary")
    x = images(dtype=torch.float64)
    torch.testing.assert_close(snn.ann(x), ann(x), rtol=1e-12, atol=1e-12)
    rows = [r.became for r in snn.report.rows if r.found in ("batch_norm", "max_pool2d")]
    assert rows == TABLE[name][2]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_time_brings_the_spikes_to_the_network(name: str, method: str) -> None:
    ann, snn = converted(name, method)
    x = images(6, torch.float64)
    curve, expected = snn.unroll(x, 256), ann(x)
    early, late = decibels(expected, curve[7]), decibels(expected, curve[255])
    assert late > early
    assert late >= 25


@torch.no_grad()
def test_a_gated_maximum_errs_less_with_more_steps() -> None:
    ann, snn = converted("max-pool of a concatenation", "binary")
    x = images(4, torch.float64)
    curve, expected = snn.unroll(x, 1024), ann(x)
    errors = [float((curve[t - 1] - expected).norm()) for t in (16, 128, 1024)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05 * errors[0]


@torch.no_grad()
def test_a_ceiling_bounds_threshold_and_rate() -> None:
    ann = around(lambda m, y: functional.relu6(m.c(y)), c=conv()).double()
    ann.c.weight.mul_(60)
    x = images(dtype=torch.float64)
    assert float(ann.c(torch.relu(ann.stem(x))).max()) > 6
    snn = st.to_snn(ann, x, st.Ternary(threshold=st.Max()))
    neuron = [unit for _, unit in snn.neurons()][1]
    assert float(neuron.threshold.max()) == 6.0 == neuron.ceiling
    assert decibels(ann(x), snn.unroll(x, 512)[-1]) >= 25


def neurons_of(snn: SpikingNetwork) -> Counter[str]:
    return Counter(type(unit).__name__ for _, unit in snn.neurons())


def test_resnet18_shares_one_relu_and_gets_seventeen_neurons() -> None:
    ann = torchvision.models.resnet18(num_classes=4).eval()
    report = st.check(ann, torch.rand(2, 3, 32, 32))
    assert report.neurons == 17 and not report.refused
    became = Counter(r.became for r in report.rows if r.found in ("max_pool2d", "batch_norm"))
    assert became == {"moved": 1, "folded": 20}


@pytest.mark.parametrize(
    ("name", "settings", "neurons"),
    [
        ("test_resnet", {"drop_path_rate": 0.3, "drop_rate": 0.2}, 12),
        ("mobilenetv2_035", {}, 35),
    ],
)
@torch.no_grad()
def test_timm_networks_convert_with_every_activation_found(
    name: str, settings: dict[str, float], neurons: int
) -> None:
    ann = wild(timm.create_model(name, num_classes=5, **settings)).train()
    x = torch.rand(2, 3, 32, 32)
    acts = [m for m in ann.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    snn = st.to_snn(ann, x, st.Ternary(steps=4, encode=False))
    assert ann.training
    assert sum(neurons_of(snn).values()) == neurons == len(acts)
    expected = ann.eval()(x)
    assert decibels(expected, snn.ann(x)) > 80
    assert not snn.report.refused
    assert str(snn.report).splitlines()[-1] == snn.report.summary


@pytest.mark.parametrize("method", [st.Binary(threshold=st.Percentile()), st.Ternary(steps=64)])
@torch.no_grad()
def test_a_timm_resnet_comes_within_twenty_five_decibels(
    method: st.Binary | st.Ternary,
) -> None:
    """Default initialisation: random statistics make nearly dead layers, which prove nothing."""
    ann = timm.create_model("test_resnet", num_classes=5).train()
    x = torch.rand(6, 3, 32, 32)
    for _ in range(20):
        ann(x)  # running statistics of these images
    ann.eval()
    curve = st.to_snn(ann, x, method).unroll(x, 256)
    expected = ann(x)
    found = [decibels(expected, curve[t - 1]) for t in (4, 16, 64, 256)]
    assert found == sorted(found)
    assert found[-1] >= 25
