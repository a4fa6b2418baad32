"""Whatever has no rule is refused by path, name and remedy; ``check`` lists it all and is calm."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from convert_networks import Forward, around, conv, images
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.convert import Method


class Named(nn.Module):
    """Puts a function under the module path ``odd``."""

    def __init__(self, rule: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.rule = rule
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, y: Tensor) -> Tensor:
        return self.rule(self, y)  # type: ignore[arg-type]


def odd(rule: Forward, **layers: nn.Module) -> nn.Module:
    return around(lambda m, y: torch.relu(m.c(m.odd(y))), odd=Named(rule, **layers), c=conv())


def attention(m: nn.Module, y: Tensor) -> Tensor:
    tokens = y.flatten(2).transpose(1, 2)
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return (weights @ tokens).transpose(1, 2).reshape(y.shape)


def recurrent(m: nn.Module, y: Tensor) -> Tensor:
    return m.rnn(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(y.shape)


# What stands at ``odd``, its layers, and the name in the message.
TABLE: dict[str, tuple[Forward, dict[str, nn.Module], str]] = {
    "gelu": (lambda m, y: functional.gelu(y), {}, "gelu"),
    "silu": (lambda m, y: functional.silu(y), {}, "silu"),
    "hardswish": (lambda m, y: functional.hardswish(y), {}, "hardswish"),
    "leaky relu": (lambda m, y: functional.leaky_relu(y), {}, "leaky_relu"),
    "prelu": (lambda m, y: m.a(y), {"a": nn.PReLU()}, "prelu"),
    "elu": (lambda m, y: functional.elu(y), {}, "elu"),
    "tanh": (lambda m, y: y.tanh(), {}, "tanh"),
    "power": (lambda m, y: y**2, {}, "pow"),
    "absolute value": (lambda m, y: y.abs(), {}, "abs"),
    "signed clamp": (lambda m, y: y.clamp(-1, 1), {}, "clamp"),
    "shifted clamp": (lambda m, y: y.clamp(0.5, 1), {}, "clamp"),
    "only a ceiling": (lambda m, y: y.clamp(max=1), {}, "clamp"),
    "softmax": (lambda m, y: y.softmax(1), {}, "softmax"),
    "layer norm": (lambda m, y: functional.layer_norm(y, [8, 8]), {}, "layer_norm"),
    "group norm": (lambda m, y: m.a(y), {"a": nn.GroupNorm(2, 4)}, "group_norm"),
    "instance norm": (lambda m, y: m.a(y), {"a": nn.InstanceNorm2d(4)}, "instance_norm"),
    "batch norm without statistics": (
        lambda m, y: m.a(y), {"a": nn.BatchNorm2d(4, track_running_stats=False)}, "batch_norm",
    ),
    "sigmoid gate": (
        lambda m, y: y * torch.sigmoid(y.mean((2, 3), keepdim=True)), {}, "sigmoid"
    ),
    "attention": (attention, {}, "matmul"),
    "product of two": (lambda m, y: y * m.a(y), {"a": conv()}, "mul"),
    "quotient of two": (lambda m, y: y / (1 + y), {}, "div"),
    "square by product": (lambda m, y: y * y, {}, "mul"),
    "one by itself": (lambda m, y: (y + 1) / (y + 1), {}, "div"),
    "division by": (lambda m, y: 1 / (y + 1), {}, "reciprocal"),
    "pad with ones": (
        lambda m, y: functional.pad(y, (1, 1, 1, 1), value=1.0), {}, "pad"
    ),
    "pad by reflection": (
        lambda m, y: functional.pad(y, (1, 1, 1, 1), mode="reflect"), {}, "pad"
    ),
    "batch moved": (
        lambda m, y: m.a(y.permute(1, 0, 2, 3)).permute(1, 0, 2, 3), {"a": nn.ReLU()}, "permute",
    ),
    "maximum": (lambda m, y: torch.maximum(y, m.a(y)), {"a": conv()}, "maximum"),
    "maximum over a dimension": (lambda m, y: y - y.amax(1, keepdim=True), {}, "amax"),
    "adaptive maximum": (
        lambda m, y: functional.adaptive_max_pool2d(y, 4), {}, "max_pool"
    ),
    "recurrent": (
        recurrent, {"rnn": nn.LSTM(4, 4, batch_first=True)}, "lstm"
    ),
    "weights from the image": (
        lambda m, y: functional.conv2d(y, y[:1].mean((2, 3), keepdim=True).repeat(4, 1, 1, 1)),
        {}, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_refused_by_path_name_and_remedy(name: str) -> None:
    rule, layers, found = TABLE[name]
    with pytest.raises(st.ConversionError) as caught:
        st.to_snn(odd(rule, **layers), images(), st.Ternary())
    message = str(caught.value)
    if name == "one by itself":  # the comparison with the network stops it, without a path
        return
    assert caught.value.path.startswith("odd"), message
    assert found in message and caught.value.remedy and "\n" not in message


@pytest.mark.parametrize("name", TABLE)
def test_check_lists_what_is_refused_without_raising(name: str) -> None:
    rule, layers, found = TABLE[name]
    report = st.check(odd(rule, **layers), images())
    assert any(found in row.found and row.path.startswith("odd") for row in report.refused)
    assert all(row.note for row in report.refused)
    assert "refused" in report.summary


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_efficientnet",
        "test_nfnet",
        "test_byobnet",
    ],
)
def test_timm_networks_are_refused_by_path(name: str) -> None:
    ann = timm.create_model(name, num_classes=3).eval()
    x = torch.rand(1, 3, *ann.pretrained_cfg["input_size"][1:])
    report = st.check(ann, x)
    paths = {path for path, _ in ann.named_modules()}
    assert report.refused and all(row.path in paths for row in report.refused)


def test_a_network_without_relu_is_refused_but_checked() -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with pytest.raises(st.ConversionError, match="nothing would spike"):
        st.to_snn(ann, images(), st.Ternary())
    assert st.check(ann, images()).neurons == 0


@pytest.mark.parametrize("method", [st.Binary, st.Ternary])
@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"steps": -1}, {"drive": 0}, {"calibration_images": 0}]
)
def test_settings_below_one_are_refused(method: type[Method], settings: dict[str, int]) -> None:
    with pytest.raises(st.SpiketuneError, match="at least 1"):
        method(**settings)


def test_a_method_that_is_none_is_refused() -> None:
    for config in (Method(), "ternary", st.Ternary):
        with pytest.raises((TypeError, ValueError), match="no conversion method"):
            st.to_snn(odd(lambda m, y: y), images(), config)  # type: ignore[arg-type]


BAD_IMAGES: dict[str, object] = {
    "NaN": torch.full((2, 1, 8, 8), math.nan),
    "infinity": torch.full((2, 1, 8, 8), math.inf),
    "one NaN": [
        torch.rand(3, 1, 8, 8),
        torch.rand(2, 1, 8, 8).index_fill(0, torch.tensor(1), math.nan),
    ],
    "no images": torch.rand(0, 1, 8, 8),
    "an empty loader": [],
    "dictionaries": [{"x": torch.rand(2, 1, 8, 8)}],
    "strings": ["a", "b"],
    "wrong channels": torch.rand(2, 3, 8, 8),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_cannot_calibrate_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(st.SpiketuneError) as caught:
        st.to_snn(odd(lambda m, y: y), BAD_IMAGES[name], st.Ternary())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    if name == "one NaN":
        assert "image 4" in str(caught.value)


def test_images_of_several_sizes_are_refused_in_one_sentence() -> None:
    with pytest.raises(st.SpiketuneError):
        st.to_snn(odd(lambda m, y: y), [images(2), torch.rand(2, 1, 9, 9)], st.Ternary())


def test_a_network_whose_weights_are_nan_is_refused() -> None:
    ann = odd(lambda m, y: y)
    with torch.no_grad():
        ann.c.weight[0] = math.nan
    with pytest.raises(st.SpiketuneError):
        st.to_snn(ann, images(), st.Ternary())


@pytest.mark.parametrize(
    "body",
    [
        lambda m, y: functional.dropout(y, 0.5, True),
        lambda m, y: y + torch.rand_like(y),
        lambda m, y: functional.batch_norm(y, None, None, training=True),
    ],
    ids=["dropout", "noise", "batch statistics"],
)
def test_a_network_that_is_random_or_trains_in_evaluation_is_refused(body: Forward) -> None:
    with pytest.raises(st.ConversionError):
        st.to_snn(odd(body), images(), st.Ternary())


def test_check_agrees_with_the_report_of_the_conversion() -> None:
    ann = timm.create_model("test_resnet", num_classes=3).eval()
    x = torch.rand(4, 3, 32, 32)
    assert st.check(ann, x).rows == st.to_snn(ann, x, st.Ternary()).report.rows


def test_check_needs_a_size_from_somewhere() -> None:
    with pytest.raises(st.ConversionError, match="size"):
        st.check(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
