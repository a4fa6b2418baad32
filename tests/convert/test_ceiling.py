from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import Ceiling, Rung
from spiketune.convert.ceiling import at_rest
from spiketune.snn import SpiketuneError


class Net(nn.Module):
    """A residual net with a bounded activation, and a GELU, in front of which a neuron is put."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.three, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = x + nn.functional.relu6(4 * self.two(x))
        x = nn.functional.gelu(self.three(x))
        return self.head(x.mean((2, 3)))


def net() -> nn.Module:
    return Net().double().eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 6, 6, dtype=torch.float64)


def staircase(z: np.ndarray, theta: np.ndarray, levels: int) -> np.ndarray:
    return theta / levels * np.clip(np.floor(levels * z / theta + 0.5), 0, levels)


def mirrored(z: np.ndarray, theta: np.ndarray, levels: int) -> np.ndarray:
    return theta / levels * np.sign(z) * np.floor(levels * np.abs(z) / theta + 0.5)


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_each_neuron_is_the_staircase(levels: int) -> None:
    x = images(10)
    snn = st.to_snn(net(), x, st.Ternary(steps=levels, drive=levels))
    neurons = dict(snn.neurons())
    seen: dict[str, np.ndarray] = {}
    with torch.no_grad():
        snn.ann(x, lambda name, current: seen.update({name: current.numpy()}))
    assert len(seen) == 3
    answer = at_rest(levels)
    for name, current in seen.items():
        neuron = neurons[name]
        theta = neuron.threshold.numpy()
        expected = (staircase if neuron.floor == 0 else mirrored)(current, theta, levels)
        np.testing.assert_allclose(
            answer(name, neuron, torch.tensor(current)).numpy(), expected, atol=1e-12
        )


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_it_is_where_the_spiking_network_comes_to_rest(levels: int, per: str) -> None:
    ann, x = net(), images(12)
    snn = st.to_snn(ann, x, st.Ternary(steps=levels, drive=levels, per=per))  # type: ignore[arg-type]
    with torch.no_grad():
        rest = snn(x, steps=400)
        torch.testing.assert_close(snn(x, steps=401), rest, atol=1e-9, rtol=0)
        limit = snn.ann(x, instead=at_rest(levels))
    torch.testing.assert_close(rest, limit, atol=1e-9, rtol=0)


def test_accuracy_and_agreement_are_counted_over_all_batches() -> None:
    ann, x = net(), images(30)
    labels = torch.randint(4, (30,))
    loader = [(x[:20], labels[:20], "more"), (x[20:], labels[20:], "more")]
    found = st.ceiling(ann, loader, [4, 2], calibration=x)
    assert [row.levels for row in found.rows] == [2, 4]
    with torch.no_grad():
        said = ann(x).argmax(1)
        for row in found.rows:
            config = st.Ternary(steps=row.levels, drive=row.levels)
            limit = st.to_snn(ann, x, config).ann(x, instead=at_rest(row.levels)).argmax(1)
            assert row.top1 == pytest.approx(100 * float((limit == labels).double().mean()))
            assert row.agreement == pytest.approx(100 * float((limit == said).double().mean()))
    assert found.ann == pytest.approx(100 * float((said == labels).double().mean()))
    assert found.images == 30
    assert json.loads(found.to_json())["rows"][0]["levels"] == 2
    assert str(found).splitlines()[2].split()[0] == "2"


def test_many_levels_are_the_ann() -> None:
    ann, x = net(), images(16)
    with torch.no_grad():
        loader = [(x, ann(x).argmax(1))]
    found = st.ceiling(ann, loader, 4096, calibration=x, threshold=st.Max())
    assert found.rows[0].agreement == found.rows[0].top1 == found.ann == 100


def test_the_fewest_levels_that_are_enough() -> None:
    rows = tuple(Rung(levels=n, top1=t, agreement=t) for n, t in ((2, 90.0), (4, 98.0), (8, 99.0)))
    found = Ceiling(rows=rows, ann=99.0, images=100)
    assert (found.enough(1.0), found.enough(0.5), found.enough(-1)) == (4, 8, None)


def test_the_network_is_left_as_it_was() -> None:
    ann, x = net().train(), images(8)
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    st.ceiling(ann, [(x, torch.zeros(8, dtype=torch.long))], 4, calibration=x)
    assert ann.training
    assert all(torch.equal(ann.state_dict()[name], value) for name, value in before.items())


def test_one_shot_loaders_will_do() -> None:
    x = images(8)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, torch.zeros(8, dtype=torch.long)

    assert st.ceiling(net(), batches(), [2, 3], calibration=batches()).images == 8


@pytest.mark.parametrize(
    ("levels", "loader", "word"),
    [
        (0, None, "levels"),
        ([], None, "levels"),
        (4, [], "empty"),
        (4, [torch.rand(2, 1, 6, 6)], "labels"),
    ],
)
def test_what_makes_no_sense_is_refused(levels: object, loader: object, word: str) -> None:
    given = [(images(4), torch.zeros(4, dtype=torch.long))] if loader is None else loader
    with pytest.raises(SpiketuneError, match=word):
        st.ceiling(net(), given, levels, calibration=images(4))  # type: ignore[arg-type]


def test_a_network_without_classes_is_refused() -> None:
    flat = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    with pytest.raises(SpiketuneError, match="classifier"):
        st.ceiling(
            flat, [(torch.rand(2, 1, 6, 6), torch.zeros(2))], 4, calibration=torch.rand(4, 1, 6, 6)
        )
