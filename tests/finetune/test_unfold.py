"""Unfolding changes nothing, measures what NumPy measures, trains, and goes away again."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import SurrogateBPTT, TuneError
from spiketune.finetune.refold import norms
from spiketune.snn import SpikingNetwork
from spiketune.snn.ops import aten

STEPS = 6


class Block(nn.Module):
    """A stem with a max-pool, a residual block with a projection, a linear layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.a, self.norm_a = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 1, groups=2)
        self.side = nn.Conv2d(4, 6, 1, bias=False)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        x = torch.relu(self.b(torch.relu(self.norm_a(self.a(x)))) + self.side(x))
        x = torch.relu(self.up(x)).mean((2, 3))
        return self.head(torch.relu(self.mix(torch.relu(self.mix(x)))))


def converted(method: st.Method | None = None) -> tuple[SpikingNetwork, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ann = Block()
        images = torch.randn(40, 1, 10, 10)
        for _ in range(3):
            ann(images)
        ann, images = ann.eval().double(), images.double()
    return st.to_snn(ann, images, method or st.Ternary(steps=STEPS)), images


Outputs = dict[str, Tensor]


@torch.no_grad()
def spikes(snn: SpikingNetwork, images: Tensor) -> tuple[Outputs, Tensor]:
    """Return every neuron's spikes over time, and the curve of answers."""
    seen: dict[str, list[Tensor]] = {}
    names = dict(snn.neurons())
    curve = snn.unroll(images, monitor=lambda name, out: seen.setdefault(name, []).append(out))
    return {name: torch.cat(parts) for name, parts in seen.items() if name in names}, curve


def assert_same(found: SpikingNetwork, expected: SpikingNetwork, images: Tensor) -> None:
    (sent, curve), (sent_before, curve_before) = spikes(found, images), spikes(expected, images)
    assert sent.keys() == sent_before.keys() and len(sent) == 6
    for name, value in sent_before.items():
        assert 0 < (value != 0).double().mean() < 1
        torch.testing.assert_close(sent[name], value, rtol=0, atol=1e-12)
    torch.testing.assert_close(curve, curve_before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [st.Ternary(steps=STEPS), st.Binary(steps=STEPS)], ids=str)
def test_every_spike_and_answer_stays(method: st.Method) -> None:
    snn, images = converted(method)
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    unfolded = st.unfold(snn, images)
    # The head feeds no neuron; the linear layer is called twice, on other currents each time.
    assert [str(node.target) for node, _ in norms(unfolded)] == [
        "stem.norm", "a.norm", "b.norm", "side.norm", "up.norm", "mix.norm", "mix.norm_2",
    ]  # fmt: skip
    assert_same(unfolded, snn, images)
    other = torch.randn(7, 1, 10, 10, dtype=torch.float64)
    assert_same(unfolded, snn, other)
    assert all(torch.equal(value, state[name]) for name, value in snn.state_dict().items())
    assert unfolded.report.neurons == snn.report.neurons
    assert unfolded.about["method"] == f"{snn.about['method']} + BN on currents"


def test_statistics_are_those_of_the_currents_over_time() -> None:
    snn, images = converted()
    unfolded = st.unfold(snn, images, steps=4)
    sent, _ = spikes(snn, images)
    stem = np.asarray(nn.functional.conv2d(images, weight(snn, "stem"), bias(snn, "stem")))
    first = next(iter(sent.values()))[:4]
    block = nn.functional.conv2d(first.flatten(0, 1), weight(snn, "a"), bias(snn, "a"), padding=1)
    currents = {"stem": stem, "a": np.asarray(block)}
    for name, current in currents.items():
        norm = unfolded.net.get_submodule(f"{name}.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = current.mean((0, 2, 3)), current.var((0, 2, 3))
        # The bias that conversion folded into the layer has moved into the BatchNorm.
        own = bias(snn, name).numpy()
        np.testing.assert_allclose(norm.running_mean.numpy(), mean - own, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-9)
        np.testing.assert_allclose(norm.weight.detach().numpy(), np.sqrt(var + norm.eps), rtol=1e-9)
        np.testing.assert_allclose(norm.bias.detach().numpy(), mean, rtol=1e-9, atol=1e-12)
        assert f"{name}.bias" not in dict(unfolded.net.named_parameters())


def weight(snn: SpikingNetwork, name: str) -> Tensor:
    return snn.net.get_parameter(f"{name}.weight").detach()


def bias(snn: SpikingNetwork, name: str) -> Tensor:
    return snn.net.get_parameter(f"{name}.bias").detach()


def test_training_shares_statistics_over_time() -> None:
    """T-LE-2: as one BatchNorm of ``[T*B]``; on the batch that was measured, still the identity."""
    snn, images = converted()
    unfolded = st.unfold(snn, images).train()
    with torch.no_grad():
        torch.testing.assert_close(unfolded(images), snn(images), rtol=0, atol=1e-10)
    seen: list[tuple[Tensor, Tensor]] = []
    norm = unfolded.net.get_submodule("a.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    before = deepcopy(norm)
    assert before.running_mean is not None and before.running_var is not None
    unfolded(images[:9])
    ((current, out),) = seen
    assert len(current) == STEPS * 9
    x = current.detach().numpy()
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    gain, shift = (p.detach().numpy().reshape(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    expected = gain * (x - mean) / np.sqrt(var + norm.eps) + shift
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=0, atol=1e-12)
    assert norm.running_mean is not None
    moved = 0.9 * before.running_mean.numpy() + 0.1 * mean.reshape(-1)
    np.testing.assert_allclose(norm.running_mean.numpy(), moved, rtol=1e-10)


def test_folding_again_after_training_changes_no_spike(tmp_path: Path) -> None:
    snn, images = converted()
    unfolded = st.unfold(snn, images)
    labels = torch.arange(len(images)) % 3
    st.tune(unfolded, [(images, labels)] * 4, SurrogateBPTT(), steps=4, epochs=2)
    unfolded.steps = STEPS
    assert (unfolded(images) - snn(images)).abs().max() > 1e-3
    folded = st.fold_norms(unfolded)
    assert_same(folded, unfolded, images)
    assert not list(norms(folded)) and len(list(norms(unfolded))) == 7
    # As many operations as the network had before; the layer that was called twice is now two.
    count = len([node for node in folded.net.graph.nodes if node.op == "call_function"])
    assert count == len([node for node in snn.net.graph.nodes if node.op == "call_function"])
    names = {name for name, _ in folded.net.named_parameters() if not name.endswith("threshold")}
    before = {name for name, _ in snn.net.named_parameters() if not name.endswith("threshold")}
    assert names - before == {"mix.weight_2", "mix.bias_2", "side.bias"}
    again = st.load(st.save(folded, tmp_path / "folded.safetensors"))
    assert torch.equal(again(images), folded(images))
    with_norms = st.load(st.save(unfolded, tmp_path / "unfolded.safetensors"))
    assert torch.equal(with_norms(images), unfolded(images))


class Preactivated(nn.Module):
    """BatchNorm behind a sum, and behind a layer that feeds others too: neither can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.hidden, self.three = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.b(torch.relu(self.one(x)))
        x = torch.relu(self.two(x)).mean((2, 3))
        return self.head(torch.relu(self.three(self.hidden(x))))


@pytest.mark.parametrize("norm", [st.SharedBN(), st.TDBN(alpha=0.6)], ids=str)
def test_a_twin_folds_as_far_as_it_can(norm: st.SharedBN | st.TDBN) -> None:
    torch.manual_seed(0)
    snn = st.twin(Preactivated(), 5, (1, 8, 8), norm=norm).double()
    images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    for _ in range(3):
        snn(images)
    for _, unit in norms(snn):
        nn.init.uniform_(unit.weight, 0.5, 2.0)  # type: ignore[arg-type]
        nn.init.uniform_(unit.bias, 0.0, 1.0)  # type: ignore[arg-type]
    folded = st.fold_norms(snn)
    assert [str(node.target) for node, _ in norms(folded)] == ["one.norm", "two.norm"]
    expected = snn.eval().unroll(images)
    assert expected.std() > 0
    torch.testing.assert_close(folded.unroll(images), expected, rtol=0, atol=1e-12)


def test_a_linear_layer_whose_channels_come_last_keeps_its_norm() -> None:
    """``BatchNorm1d`` behind ``[B, 5, 6]`` normalises the 5, the layer's outputs are the 6."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(6, 2))
    snn = st.twin(ann, 4, (5, 4)).double()
    images = torch.randn(8, 5, 4, dtype=torch.float64)
    for _ in range(3):
        snn(images)
    folded = st.fold_norms(snn)
    assert len(list(norms(folded))) == 1
    torch.testing.assert_close(folded(images), snn.eval()(images), rtol=0, atol=1e-12)


class Tokens(nn.Module):
    """Layers over the channels of ``[B, ..., C]`` and, where there is one dimension, over it."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6, bias=False)
        self.across = nn.Linear(tokens, tokens) if tokens else None
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(x + self.b(x))
        if self.across is not None:
            x = torch.relu(self.across(x.transpose(1, 2)).transpose(1, 2))
        return self.head(x.flatten(1, -2).mean(1))


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)], ids=str)
def test_channels_that_come_last_are_normalised_where_they_are(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokens = shape[0] if len(shape) == 2 else 0
    ann = Tokens(tokens).double().eval()
    images = torch.randn(40, *shape, dtype=torch.float64)
    snn = st.to_snn(ann, images, st.Binary(steps=STEPS))
    unfolded = st.unfold(snn, images)
    found = dict((str(node.target), norm) for node, norm in norms(unfolded))
    assert list(found) == ["a.norm", "b.norm", *["across.norm"] * bool(tokens)]
    sent, curve = spikes(unfolded, images)
    before, expected = spikes(snn, images)
    assert sent.keys() == before.keys() and len(sent) == 2 + bool(tokens)
    for name, value in before.items():
        assert 0 < (value != 0).double().mean() < 1
        torch.testing.assert_close(sent[name], value, rtol=0, atol=1e-12)
    torch.testing.assert_close(curve, expected, rtol=0, atol=1e-12)

    # One mean and one variance for each channel, over steps, images and places.
    current = before[next(iter(before))].numpy() @ ann.b.weight.detach().numpy().T
    places = tuple(range(current.ndim - 1))
    norm = found["b.norm"]
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), current.mean(places), atol=1e-10)
    np.testing.assert_allclose(norm.running_var.numpy(), current.var(places), rtol=1e-9)

    labels = torch.arange(len(images)) % 3
    st.tune(unfolded, [(images, labels)] * 3, SurrogateBPTT(), steps=STEPS, epochs=1)
    assert (unfolded(images) - snn(images)).abs().max() > 1e-3
    again = st.load(st.save(unfolded, tmp_path / "unfolded.safetensors"))
    assert torch.equal(again(images), unfolded(images))
    folded = st.fold_norms(unfolded)
    assert not list(norms(folded))
    torch.testing.assert_close(folded(images), unfolded(images), rtol=0, atol=1e-12)
    turns = [
        len(one.net.graph.find_nodes(op="call_function", target=aten.permute.default))
        for one in (snn, unfolded, folded)
    ]
    assert turns[1] == turns[0] + 2 * len(found) and turns[2] == turns[0]


def test_what_cannot_be_unfolded_is_refused_by_name() -> None:
    snn, images = converted()
    graded, _ = converted(st.Graded(steps=4))
    with pytest.raises(TuneError, match=r"acts at every step.*Graded\(.*first 1.*Ternary\(\)"):
        st.unfold(graded, images)
    with pytest.raises(TuneError, match="no images"):
        st.unfold(snn, images[:0])
    with pytest.raises(TuneError, match=r"type list, .* give a batch"):
        st.unfold(snn, [(images, 0)])  # type: ignore[arg-type]
    with pytest.raises(TuneError, match=r"as it was before fold\(\)"):
        st.unfold(snn.fold(), images)
    with pytest.raises(TuneError, match="nothing to unfold"):
        st.unfold(st.unfold(snn, images), images)
    rows = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    made = st.to_snn(rows, torch.rand(8, 2, 2, 2, 2, 4), st.Binary(steps=4))
    with pytest.raises(TuneError, match=r"^0: its currents of shape \[1, 2, 2, 2, 2, 6\]"):
        st.unfold(made, torch.rand(8, 2, 2, 2, 2, 4))
    steps = st.twin(nn.Sequential(*Mlp()), 4, (6,), norm=st.TEBN())
    with pytest.raises(TuneError, match=r"1\.norm: a TEBN has a factor for each step"):
        st.fold_norms(steps)


def Mlp() -> list[nn.Module]:
    return [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)]


@pytest.mark.parametrize(
    "verb", [lambda snn, x: st.unfold(snn, x), lambda snn, x: st.fold_norms(snn)]
)
def test_the_network_given_stays(verb: Callable[[SpikingNetwork, Tensor], SpikingNetwork]) -> None:
    snn = st.twin(nn.Sequential(*Mlp()[:1], *Mlp()[2:]), 4, (6,)).train()
    images = torch.randn(8, 6)
    names, before = list(snn.state_dict()), snn(images)
    made = verb(snn, images)
    assert not made.training and snn.training
    assert list(snn.state_dict()) == names and torch.equal(snn(images), before)
