from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.convert.presets import RECIPES
from spiketune.snn import (
    IF,
    Burst,
    Delayed,
    Graded,
    HardReset,
    Harmonic,
    Poisson,
    SignedIF,
    SoftReset,
    SpiketuneError,
)

NAMES = [one.name for one in RECIPES]
each_recipe = pytest.mark.parametrize("name", NAMES)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


def images() -> Tensor:
    return torch.rand(24, 1, 8, 8)


def converted(name: str, steps: int = 4) -> st.SpikingNetwork:
    return st.to_snn(net(), images(), st.recipe(name, steps))


def test_the_history_of_the_field_is_there() -> None:
    assert [one.name for one in st.recipes()] == NAMES
    assert {
        "diehl2015", "rueckauer2017", "sengupta2019", "rmp2020", "rathi2020", "diet2021", "li2021",
        "li2021_advanced", "opi2022", "snm2022", "burst2022", "ecmt2024", "bu2025", "dcgs2025",
        "ternary", "ternary_corrected", "phase", "graded",
    } == set(NAMES)  # fmt: skip
    years = [int("".join(c for c in n if c.isdigit())) for n in NAMES if any(map(str.isdigit, n))]
    assert years == sorted(years)


@each_recipe
def test_a_line_says_paper_and_settings(name: str) -> None:
    line = str(next(one for one in st.recipes() if one.name == name))
    assert line.startswith(name) and "\n" not in line and len(line) < 160


@each_recipe
def test_every_recipe_converts_a_network_and_follows_it(name: str) -> None:
    ann, x = net(), images()
    snn = st.to_snn(ann, x, st.recipe(name, 64))
    assert snn.steps == 64
    with torch.no_grad():
        expected, found = ann(x), snn(x)
    assert found.isfinite().all()
    if name != "sengupta2019":  # hard reset and chance: of no use on a net of this size
        assert float(torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1]) > 0.8


def neurons(name: str) -> list[nn.Module]:
    return [neuron for _, neuron in converted(name).neurons()]


@pytest.mark.parametrize(
    ("name", "kind", "channels", "initial"),
    [
        ("diehl2015", IF, 1, 0.0),
        ("rueckauer2017", IF, 1, 0.0),
        ("sengupta2019", IF, 1, 0.0),
        ("rmp2020", IF, 1, 0.0),
        ("rathi2020", IF, 1, 0.0),
        ("diet2021", IF, 1, 0.0),
        ("li2021", IF, 1, 0.5),
        ("opi2022", IF, 1, 0.5),
        ("snm2022", SignedIF, 1, 0.0),
        ("burst2022", Burst, 1, 0.5),
        ("bu2025", IF, 4, 0.5),
        ("dcgs2025", Graded, 4, None),
        ("ecmt2024", Graded, 4, None),
        ("ternary", SignedIF, 4, 0.5),
        ("graded", Graded, 4, None),
    ],
)
def test_the_neurons_are_those_of_the_paper(
    name: str, kind: type[nn.Module], channels: int, initial: float | None
) -> None:
    for neuron in neurons(name):
        assert type(neuron) is kind
        assert neuron.threshold.numel() == channels  # type: ignore[union-attr]
        if initial is not None:
            assert neuron.initial.unique().tolist() == [initial]  # type: ignore[union-attr, operator]


def test_what_sets_near_relatives_apart() -> None:
    resets = {n: {type(u.firing.reset) for u in neurons(n)} for n in ("diehl2015", "rmp2020")}  # type: ignore[union-attr]
    assert resets == {"diehl2015": {HardReset}, "rmp2020": {SoftReset}}
    for poisson in ("sengupta2019", "rathi2020"):
        assert any(isinstance(m, Poisson) for m in converted(poisson).modules())
    assert not any(isinstance(m, Poisson) for m in converted("diet2021").modules())
    assert isinstance(converted("bu2025").readout, Delayed)
    (differential, *_), (rate, *_) = neurons("dcgs2025"), neurons("ecmt2024")
    assert isinstance(differential, Graded) and isinstance(rate, Graded)
    assert (differential.levels, differential.drive) == (4, 1)
    assert differential.schedule == Harmonic()
    assert rate.drive is None
    assert st.recipe("li2021_advanced", 4).corrections != st.recipe("li2021", 4).corrections != ()


def test_the_99_9_percentile_lies_below_the_maximum() -> None:
    torch.manual_seed(1)
    ann, x = net(), images()
    low, high = (
        [float(n.threshold) for _, n in st.to_snn(ann, x, st.recipe(name, 4)).neurons()]
        for name in ("rueckauer2017", "rmp2020")
    )
    assert all(small < large for small, large in zip(low, high, strict=True))


def test_an_unknown_name_is_met_with_near_ones() -> None:
    with pytest.raises(SpiketuneError, match="rueckauer2017"):
        st.recipe("rueckauer", 8)
    with pytest.raises(SpiketuneError, match="diehl2015"):
        st.recipe("???", 8)
    with pytest.raises(SpiketuneError, match="steps"):
        st.recipe("rmp2020", 0)
