from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.convert import Diagnosis, LayerFinding
from spiketune.convert.diagnosis import PARTS
from spiketune.snn import SpiketuneError, SpikingNetwork


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = x + torch.relu(self.two(x))
        return self.head(torch.relu(x - 0.2).mean((2, 3)))


def net() -> nn.Module:
    return Net().eval()


def images(count: int = 20) -> Tensor:
    return torch.rand(count, 1, 6, 6)


def exact(weights: list[list[float]], biases: list[float]) -> nn.Module:
    """Return ``head(relu(W x + b))`` with weights that a test can reckon with."""
    ann = nn.Sequential(
        nn.Linear(len(weights[0]), len(weights)), nn.ReLU(), nn.Linear(len(weights), 2)
    )
    with torch.no_grad():
        ann[0].weight.copy_(torch.tensor(weights))
        ann[0].bias.copy_(torch.tensor(biases))
    return ann.eval()


METHODS = [
    st.Binary(steps=6, threshold=st.Percentile(percent=95.0)),
    st.Binary(steps=6, per="layer", initial=0.0, reset="hard"),
    st.Burst(steps=4),
    st.Ternary(steps=8),
    st.Ternary(steps=12, drive=4),
    st.Graded(steps=3, levels=4),
    st.Graded(steps=5, levels=3, coding="rate"),
]  # fmt: skip
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def measured(snn: SpikingNetwork, x: Tensor, steps: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return activation and answer of each neuron, as a plain simulation shows them."""
    neurons = dict(snn.neurons())
    ann: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    count = min(steps, snn.drive or steps)

    def note(name: str, current: Tensor) -> None:
        ann[name] = neurons[name].activation(current)

    def add(name: str, spikes: Tensor) -> None:
        sums[name] = sums.get(name, 0) + spikes.sum(0) / count

    with torch.no_grad():
        snn.ann(x, note)
        snn.unroll(x, steps, monitor=add)
    return {name: (ann[name], sums[name]) for name in ann}


@each_method
def test_the_error_is_that_of_a_plain_simulation(method: st.Method) -> None:
    ann, x = net(), images()
    snn = st.to_snn(ann, x, method)
    found = st.doctor(snn, x)
    expected = measured(snn, x, method.steps)
    assert len(found.layers) == len(expected) == 3
    for layer, (active, said) in zip(found.layers, expected.values(), strict=True):
        energy = float((said - active).square().sum() / active.square().sum())
        assert layer.error == pytest.approx(energy, rel=1e-3, abs=1e-9)
        assert layer.snr == pytest.approx(-10 * np.log10(energy), abs=0.01)


@each_method
def test_the_parts_add_up(method: st.Method) -> None:
    """Energies of parts that sum to the error obey the triangle inequality, both ways."""
    for layer in st.doctor(net(), images(), method).layers:
        sizes = sorted([np.sqrt(getattr(layer, part)) for part in PARTS])
        assert np.sqrt(layer.error) <= sum(sizes) + 1e-6
        assert np.sqrt(layer.error) >= sizes[-1] - sum(sizes[:-1]) - 1e-6
        assert sum(layer.share(part) for part in PARTS) == pytest.approx(1)


def test_the_first_layer_by_hand() -> None:
    x = torch.rand(30, 3) * 2
    ann = exact([[1.0, 0.5, 0.0], [0.0, -1.0, 1.0]], [0.1, 0.2])
    snn = st.to_snn(ann, x, st.Binary(steps=5, threshold=st.Percentile(percent=80.0)))
    (layer,) = st.doctor(snn, x, limit=30).layers
    theta = next(n for _, n in snn.neurons()).threshold.detach().numpy().astype(np.float64)
    z = ann[0](x).detach().numpy().astype(np.float64)  # type: ignore[index, operator]
    active = np.maximum(z, 0)
    within = np.minimum(active, theta)
    said = theta / 5 * np.clip(np.floor(5 * z / theta + 0.5), 0, 5)
    signal = (active**2).sum()
    assert layer.inherited == pytest.approx(0, abs=1e-9)
    assert layer.unevenness == pytest.approx(0, abs=1e-9)
    assert layer.clipping == pytest.approx(((within - active) ** 2).sum() / signal, rel=1e-4)
    assert layer.quantisation == pytest.approx(((said - within) ** 2).sum() / signal, rel=1e-4)
    clipped = ((within - active) ** 2).sum(0)
    assert layer.worst == int(clipped.argmax())
    assert layer.worst_share == pytest.approx(clipped.max() / clipped.sum(), rel=1e-4)
    assert layer.saturated == (0, 1) and layer.levels == 5
    assert layer.spikes == pytest.approx((said * 5 / theta).mean(), rel=1e-4)


def test_a_spike_sent_too_early_is_unevenness() -> None:
    """The second neuron gets +1 at first and -1 later: nothing in all, but it has fired."""
    first = nn.Linear(1, 2)
    second = nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [0.5]]))
        first.bias.zero_()
        second.weight.copy_(torch.tensor([[1.0, -2.0]]))
        second.bias.zero_()
    ann = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(1, 2)).eval()
    x = torch.tensor([[1.0]])
    config = st.Binary(steps=2, threshold=st.Max(), initial=0.0, per="layer")
    with torch.no_grad():
        second.bias.fill_(0.4)  # something to balance on
        snn = st.to_snn(ann, x, config)
        for _, neuron in snn.neurons():
            neuron.threshold.fill_(1.0)
        dict(snn.net.named_parameters())["2.bias"].zero_()
    layer = st.doctor(snn, x, steps=2).layers[1]
    # Spikes of the first layer: (1, 0), (1, 1). Currents: +1, -1. Answer 1/2 of nothing.
    assert layer.share("unevenness") == 1
    assert layer.unevenness == pytest.approx(0.25)


def test_dead_silent_and_saturated_channels() -> None:
    ann = exact([[1.0], [-1.0], [0.02], [1.0]], [0.0, 0.0, 0.0, 0.5])
    x = torch.linspace(0.1, 1, 10).unsqueeze(1)
    config = st.Binary(steps=4, per="layer", threshold=st.Percentile(percent=90.0))
    (layer,) = st.doctor(ann, x, config).layers
    assert layer.dead == (1,)
    assert layer.silent == (2,)
    assert layer.saturated == (3,)
    assert layer.worst == 3
    assert layer.channels == 4 and layer.per == "layer"


def test_graded_neurons_clip_nothing_and_round_finely() -> None:
    x = images()
    found = st.doctor(net(), x, st.Graded(steps=4, levels=6))
    for layer in found.layers:
        assert layer.clipping == 0 and layer.saturated == ()
    theta_share = 2.0**-5 / 2
    assert all(layer.quantisation < theta_share for layer in found.layers)


def test_folded_networks_are_read_in_the_same_units() -> None:
    x = images()
    snn = st.to_snn(net(), x, st.Ternary(steps=8))
    plain, folded = st.doctor(snn, x), st.doctor(snn.fold(), x)
    for one, other in zip(plain.layers, folded.layers, strict=True):
        assert other.error == pytest.approx(one.error, rel=0.05)
        assert other.spikes == pytest.approx(one.spikes, rel=0.02)


def test_spikes_are_those_of_the_sweep() -> None:
    x = images()
    for method in (st.Burst(steps=5), st.Graded(steps=3, spikes_per_step=2)):
        snn = st.to_snn(net(), x, method)
        table = st.sweep({"snn": snn}, [(x, torch.zeros(len(x)).long())], [method.steps])
        found = st.doctor(snn, x)
        mean = np.mean([layer.spikes for layer in found.layers])  # layers of one size
        assert mean == pytest.approx(table.rows[0].spikes_per_neuron, rel=1e-4)


def test_agreement_is_that_of_the_answers() -> None:
    ann, x = net(), images(40)
    snn = st.to_snn(ann, x, st.Binary(steps=3))
    with torch.no_grad():
        same = (snn(x).argmax(1) == ann(x).argmax(1)).float().mean()
    assert st.doctor(snn, x).agreement == pytest.approx(100 * float(same))


def test_an_ann_is_converted_first_and_loaders_will_do() -> None:
    ann, x = net(), images()
    loader = [(x[:12], None), (x[12:], None)]
    whole = st.doctor(ann, x, st.Ternary(steps=5))
    assert st.doctor(ann, loader, st.Ternary(steps=5)).layers == whole.layers
    assert whole.steps == 5 and "Ternary" in whole.method
    assert st.doctor(ann, x).method.startswith("Graded")
    assert st.doctor(ann, x, steps=7, limit=3).images == 3


def layer(path: str, error: float, **parts: float) -> LayerFinding:
    given = {**dict.fromkeys(PARTS, 0.0), **parts}
    return LayerFinding(
        path=path, neuron="IF", error=error, **given, levels=16, per="layer", channels=32,
        worst=17, worst_share=0.6, dead=(), silent=(), saturated=(), spikes=1.0,
    )  # fmt: skip


def diagnosis(*layers: LayerFinding, method: str = "Binary(steps=16)") -> Diagnosis:
    return Diagnosis(layers=layers, steps=16, drive=None, images=8, agreement=50.0, method=method)


def test_the_first_fall() -> None:
    fine, worse, low = layer("a", 0.001), layer("b", 0.05), layer("c", 0.2)
    assert diagnosis(fine, worse, low, low).first_fall == 2
    assert diagnosis(fine, worse, layer("c", 0.06)).first_fall == 1
    assert diagnosis(fine).first_fall == 0
    assert diagnosis().first_fall is None
    assert "c is the first layer below 10 dB (7.0 dB)" in diagnosis(fine, worse, low).advice[0]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            "clipping",
            "100.0% of the error is clipping, 60% of that in channel 17; use per='channel'",
        ),
        ("quantisation", "16 levels are too coarse"),
        ("unevenness", "use Ternary()"),
    ],
)
def test_advice_names_layer_number_and_setting(part: str, words: str) -> None:
    found = diagnosis(layer("blocks.3.conv2", 0.1, **{part: 0.1}))
    assert any(s.startswith("blocks.3.conv2: ") and words in s for s in found.advice)


def test_advice_follows_the_settings() -> None:
    bad = layer("a", 0.1, quantisation=0.1)
    assert "initial=0.5" in diagnosis(bad, method="Binary(steps=16, initial=0.0)").advice[1]
    early = layer("a", 0.1, unevenness=0.1)
    assert "reset='soft'" in diagnosis(early, method="Binary(steps=16, reset='hard')").advice[1]
    assert "nothing needs changing" in diagnosis(layer("a", 1e-6, quantisation=1e-6)).advice[1]


def test_neurons_of_one_module_are_told_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(4, 8), nn.Linear(8, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.two(self.act(self.one(x))))

    torch.manual_seed(1)
    found = st.doctor(Twice().eval(), torch.rand(20, 4), st.Ternary())
    assert [layer.path for layer in found.layers] == ["act.relu", "act.relu_2"]


def test_a_gelu_network_is_seen_through_its_encoders() -> None:
    ann = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 3)).eval()
    x = torch.randn(40, 4)
    for method, setting in (
        (st.Ternary(steps=4), "steps=8"),
        (st.Graded(steps=2, levels=2), "levels=3"),
    ):
        found = st.doctor(ann, x, method)
        (layer,) = found.layers
        assert layer.neuron == "Graded" and layer.path == "1"
        assert any(setting in sentence for sentence in found.advice)


def test_layers_that_need_the_same_share_a_sentence() -> None:
    first, second = layer("a", 0.3, quantisation=0.3), layer("b", 0.2, quantisation=0.1)
    found = diagnosis(second, layer("c", 0.1, unevenness=0.1), first).advice
    assert "Likewise b (100.0%)." in found[1] and found[1].startswith("a: ")
    assert found[2].startswith("c: ") and len(found) == 3


def test_it_is_shown_as_table_json_and_picture(tmp_path: Path) -> None:
    found = st.doctor(net(), images(), st.Binary(steps=4))
    shown = str(found)
    assert all(layer.path in shown for layer in found.layers)
    assert all(sentence in shown for sentence in found.advice)
    data = json.loads(found.to_json())
    assert len(data["layers"]) == 3 and data["advice"] == list(found.advice)
    assert sum(data["layers"][1]["shares"].values()) == pytest.approx(1)
    png = found.plot(tmp_path / "deep" / "doctor.png")
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert [file.name for file in png.parent.iterdir()] == ["doctor.png"]


def test_a_network_without_neurons(tmp_path: Path) -> None:
    found = diagnosis()
    assert found.layers == () and "no neuron" in str(found)
    json.loads(found.to_json())
    with pytest.raises(SpiketuneError, match="no neuron"):
        found.plot(tmp_path / "none.png")


def test_what_makes_no_sense_is_refused() -> None:
    x = images(6)
    snn = st.to_snn(net(), x, st.Ternary(steps=2))
    with pytest.raises(SpiketuneError, match="converted already"):
        st.doctor(snn, x, st.Ternary())
    with pytest.raises(SpiketuneError, match="steps"):
        st.doctor(snn, x, steps=0)
    with pytest.raises(SpiketuneError, match="limit"):
        st.doctor(snn, x, limit=0)
    with pytest.raises(SpiketuneError, match="empty"):
        st.doctor(snn, x[:0])
