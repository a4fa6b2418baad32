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


def recurrent(m: nn.Module, y: Tensor) -> Tensor:
    return m.rnn(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(y.shape)


# What stands at ``odd``, its layers, and the name in the message.
TABLE: dict[str, tuple[Forward, dict[str, nn.Module], str]] = {
    "instance norm": (lambda m, y: m.a(y), {"a": nn.InstanceNorm2d(4)}, "instance_norm"),
    "batch norm without statistics": (
        lambda m, y: m.a(y),
        {"a": nn.BatchNorm2d(4, track_running_stats=False)},
        "batch_norm",
    ),
    "sorted": (lambda m, y: y.sort(1)[0], {}, "sort"),
    "gamma function": (lambda m, y: torch.lgamma(y + 1), {}, "lgamma"),
    "recurrent": (recurrent, {"rnn": nn.LSTM(4, 4, batch_first=True)}, "lstm"),
}


@pytest.mark.parametrize("name", TABLE)
def test_refused_by_path_name_and_remedy(name: str) -> None:
    rule, layers, found = TABLE[name]
    with pytest.raises(st.ConversionError) as caught:
        st.to_snn(odd(rule, **layers), images(), st.Ternary())
    message = str(caught.value)
    assert caught.value.path.startswith("odd"), message
    assert found in message and caught.value.remedy and "\n" not in message


@pytest.mark.parametrize("name", TABLE)
def test_check_lists_what_is_refused_without_raising(name: str) -> None:
    rule, layers, found = TABLE[name]
    ann = odd(rule, **layers)
    report = st.check(ann, images())
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
def test_timm_networks_beyond_relu_have_a_rule_for_everything(name: str) -> None:
    ann = timm.create_model(name, num_classes=3).eval()
    report = st.check(ann)
    paths = {path for path, _ in ann.named_modules()}
    assert not report.refused and report.neurons > 0
    found = {row.path.split(".encoder")[0] for row in report.rows}
    assert found <= paths


def test_weights_made_from_one_image_are_refused() -> None:
    def body(m: nn.Module, y: Tensor) -> Tensor:
        return functional.conv2d(y, y[:1].mean((2, 3), keepdim=True).repeat(4, 1, 1, 1))

    with pytest.raises(st.ConversionError, match="other images"):
        st.to_snn(odd(body), images(), st.Ternary())


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
        with pytest.raises((TypeError, ValueError), match=r"no conversion method|not the class"):
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
