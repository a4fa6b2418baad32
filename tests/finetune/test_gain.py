"""Gains against their theory (closed form), residual networks against NumPy, depth 50, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

import spiketune as st
from spiketune.finetune import SurrogateBPTT, TuneError, calibrate_gain, gradient_norms
from spiketune.snn import (
    IF,
    LIF,
    ATan,
    Firing,
    Graded,
    HardReset,
    Linear,
    Neuron,
    Poisson,
    Rectangle,
    Scaled,
    Sigmoid,
    SpikingNetwork,
    SuperSpike,
    Surrogate,
    Triangle,
)
from spiketune.snn.ops import aten

Array = NDArray[np.float64]
CLASSES = 10


class Chain:
    """Build a network operation by operation, which reading one of 50 layers is too slow for."""

    def __init__(self, width: int, *, leak: float = 1.0, poisson: bool = True) -> None:
        self.root, self.graph, self.width, self.leak = nn.Module(), Graph(), width, leak
        self.generator = torch.Generator().manual_seed(width)
        self.last = self.graph.placeholder("x")
        if poisson:
            self.last = self.call("spikes", Poisson(scale=3.0), self.last)

    def call(self, name: str, unit: nn.Module, source: Node) -> Node:
        self.root.add_module(name, unit)
        return self.graph.call_module(name, (source,))

    def linear(self, name: str, source: Node, outputs: int | None = None) -> Node:
        outputs = outputs or self.width
        weight = torch.randn(outputs, self.width, generator=self.generator) / self.width**0.5
        self.root.register_parameter(f"{name}_weight", nn.Parameter(weight))
        return self.graph.call_function(
            aten.linear.default, (source, self.graph.get_attr(f"{name}_weight"))
        )

    def norm(self, name: str, source: Node) -> Node:
        return self.call(f"{name}_norm", nn.BatchNorm1d(self.width), source)

    def neuron(self, name: str, source: Node) -> Node:
        firing = Firing(reset=HardReset())
        one = torch.ones(())
        made: Neuron = (
            IF(one, firing=firing) if self.leak == 1 else LIF(one, leak=self.leak, firing=firing)
        )
        return self.call(name, made, source)

    def layers(self, count: int) -> Chain:
        for number in range(count):
            name = f"n{number}"
            self.last = self.neuron(name, self.norm(name, self.linear(name, self.last)))
        return self

    def blocks(self, count: int) -> Chain:
        for number in range(count):
            a, b = f"a{number}", f"b{number}"
            inner = self.neuron(a, self.norm(a, self.linear(a, self.last)))
            branch = self.norm(b, self.linear(b, inner))
            joined = self.graph.call_function(aten.add.Tensor, (branch, self.last))
            self.last = self.neuron(b, joined)
        return self

    def done(self, steps: int) -> SpikingNetwork:
        self.graph.output(self.linear("head", self.last, CLASSES))
        net = GraphModule(self.root, self.graph)
        return SpikingNetwork(net, steps=steps, input_shape=(self.width,))


def images(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def with_slope(snn: SpikingNetwork, slope: Surrogate) -> SpikingNetwork:
    for _, neuron in snn.neurons():
        neuron.firing = replace(neuron.firing, surrogate=slope)
    return snn


def norms(snn: SpikingNetwork, x: Tensor, steps: int) -> Array:
    return np.array(list(gradient_norms(snn, x, steps=steps).values()))


def predicted(slope: Surrogate) -> float:
    """G of a layer without memory behind BatchNorm: the membrane is standard normal, θ = 1."""
    u = np.linspace(-12, 12, 400_001)
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi) * (u[1] - u[0])
    p = 0.5 * math.erfc(1 / math.sqrt(2))
    h = slope.slope(torch.from_numpy(u - 1)).numpy()
    return math.sqrt((density * h**2).sum() / (p * (1 - p)))


# training-rules.md 6.3: slope and gain.
TABLE = [
    (SuperSpike(alpha=1.0), 1.071),
    (SuperSpike(alpha=2.0), 0.772),
    (SuperSpike(alpha=5.0), 0.491),
    (SuperSpike(alpha=10.0), 0.347),
    (SuperSpike(alpha=20.0), 0.245),
    (Triangle(width=0.5), 1.554),
    (Triangle(width=1.0), 1.097),
    (Triangle(width=2.0), 0.767),
    (Triangle(width=4.0), 0.504),
]


@pytest.fixture(scope="module")
def memoryless() -> SpikingNetwork:
    """30 layers whose membranes forget: the leak leaves a millionth."""
    return Chain(256, leak=1e-6).layers(30).done(10)


@pytest.mark.parametrize(("slope", "theory"), TABLE, ids=str)
def test_each_layers_gain_is_the_theorys(
    memoryless: SpikingNetwork, slope: Surrogate, theory: float
) -> None:
    """T-LE-1."""
    assert predicted(slope) == pytest.approx(theory, abs=0.0015)
    snn = with_slope(memoryless, slope)
    found = [norms(snn, images(64, 256, seed), 10) for seed in range(2)]
    gain = math.exp(np.mean([np.log(norm[:-1] / norm[1:]).mean() for norm in found]))
    assert gain == pytest.approx(theory, rel=0.03)


@pytest.mark.parametrize("slope", [SuperSpike(alpha=10.0), Triangle(width=2.0)], ids=str)
def test_the_gain_found_is_one_over_the_theorys(
    memoryless: SpikingNetwork, slope: Surrogate
) -> None:
    found = calibrate_gain(memoryless, images(32, 256), steps=10, surrogate=slope)
    gains = np.array([made.gain for made in found.values() if isinstance(made, Scaled)])
    assert len(gains) == 30
    assert np.exp(np.log(gains).mean()) == pytest.approx(1 / predicted(slope), rel=0.03)
    after = norms(memoryless, images(32, 256), 10)
    # A gain needs no search: the norms are equal on the batch that it was found on.
    np.testing.assert_allclose(after / after[-1], 1, rtol=1e-4)


@pytest.mark.parametrize("slope", [SuperSpike(alpha=10.0), Triangle(width=4.0)], ids=str)
def test_the_width_found_is_where_the_theorys_gain_is_one(
    memoryless: SpikingNetwork, slope: SuperSpike | Triangle
) -> None:
    low, high = 0.05, 20.0  # widths; the theory's gain falls or rises throughout
    kind = type(slope)

    def of_width(width: float) -> Surrogate:
        return SuperSpike(alpha=1 / width) if kind is SuperSpike else Triangle(width=width)

    rises = predicted(of_width(high)) > predicted(of_width(low))
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if (predicted(of_width(middle)) < 1) == rises else (low, middle)
    found = calibrate_gain(
        memoryless, images(32, 256), steps=10, surrogate=slope, by="width", tolerance=0.01
    )
    widths = [1 / s.alpha if isinstance(s, SuperSpike) else s.width for s in found.values()]  # type: ignore[attr-defined]
    assert np.exp(np.log(widths).mean()) == pytest.approx(middle, rel=0.04)
    after = norms(memoryless, images(32, 256), 10)
    np.testing.assert_allclose(after / after[-1], 1, rtol=0.011)


@pytest.mark.parametrize("detach_reset", [True, False])
def test_fifty_layers_keep_their_gradient(detach_reset: bool) -> None:
    """T-LE-3, with membranes that remember; measured on images not calibrated on."""
    snn = Chain(64, leak=0.9).layers(50).done(10)
    slope, x, other = SuperSpike(alpha=10.0), images(48, 64), images(48, 64, seed=1)
    for _, neuron in snn.neurons():
        neuron.firing = replace(neuron.firing, surrogate=slope, detach_reset=detach_reset)
    before = norms(snn, other, 10)
    assert before[0] / before[-1] < 1e-9
    calibrate_gain(snn, x, steps=10, detach_reset=detach_reset)
    np.testing.assert_allclose(norms(snn, x, 10) / norms(snn, x, 10)[-1], 1, rtol=0.06)
    after = norms(snn, other, 10)
    assert 0.3 < after[0] / after[-1] < 3


def test_twenty_residual_blocks_keep_their_gradient() -> None:
    snn = with_slope(Chain(64, leak=0.9).blocks(20).done(10), SuperSpike(alpha=10.0))
    names = [name for name, _ in snn.neurons()]
    ends = [place for place, name in enumerate(names) if name.startswith("b")]
    before = norms(snn, images(48, 64, seed=1), 10)[ends]
    assert not 0.3 < before[0] / before[-1] < 3
    calibrate_gain(snn, images(48, 64), steps=10)
    after = norms(snn, images(48, 64, seed=1), 10)[ends]
    ratio = after / after[-1]
    assert ratio.min() > 0.3 and ratio.max() < 3


def test_a_block_splits_its_gradient_as_written_out_in_numpy() -> None:
    """One step, no BatchNorm: ``s0 = f(W0 x); s1 = f(W1 s0); s2 = f(W2 s1 + s0); y = W3 s2``."""

    class Plain(Chain):
        def norm(self, name: str, source: Node) -> Node:
            return source

    chain = Plain(12, poisson=False)
    chain.last = chain.neuron("first", chain.linear("first", chain.last))
    snn = chain.blocks(1).done(1).double()
    x = images(30, 12).double() * 2
    slope = SuperSpike(alpha=3.0)
    found = calibrate_gain(snn, x, steps=1, surrogate=slope, target=0.8, seed=5)
    w = [snn.net.get_parameter(f"{name}_weight").detach().numpy()
         for name in ("first", "a0", "b0", "head")]  # fmt: skip

    def h(u: Array) -> Array:
        return 1 / (1 + 3 * np.abs(u - 1)) ** 2

    u0 = x.numpy() @ w[0].T
    u1 = (u0 >= 1) @ w[1].T
    u2 = (u1 >= 1) @ w[2].T + (u0 >= 1)
    weights = torch.randn(
        30, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    ).numpy()
    size = np.linalg.norm
    g2 = weights @ w[3]
    to_branch, to_identity = (h(u2) * g2) @ w[2], h(u2) * g2
    c2 = 0.8 * size(g2) / math.hypot(size(to_branch), size(to_identity))
    g1 = c2 * to_branch
    c1 = 0.8 * size(g1) / size((h(u1) * g1) @ w[1])
    # The first neuron sees the image alone: it is turned as far as the others on average.
    expected = {"first": math.sqrt(c1 * c2), "a0": c1, "b0": c2}
    for name, gain in expected.items():
        made = found[name]
        assert isinstance(made, Scaled) and made.surrogate == slope
        assert made.gain == pytest.approx(gain, rel=1e-9)


def area(slope: Surrogate) -> float:
    """Integrate over the whole line: ``x = sinh y`` reaches 1e12 on either side."""
    edges = np.linspace(-28.0, 28.0, 4_000_001)
    y = (edges[1:] + edges[:-1]) / 2
    heights = slope.slope(torch.from_numpy(np.sinh(y))).numpy()
    return float((heights * np.cosh(y)).sum() * (edges[1] - edges[0]))


@pytest.mark.parametrize(
    ("slope", "expected"),
    [
        (Triangle(width=0.7), 1.0),
        (ATan(alpha=3.0), 1.0),
        (Sigmoid(alpha=3.0), 1.0),
        (Rectangle(width=0.7), 1.0),
        (SuperSpike(alpha=10.0), 0.2),
        (SuperSpike(alpha=0.5), 4.0),
        (Scaled(surrogate=SuperSpike(alpha=10.0), gain=5.0), 1.0),
        (Scaled(surrogate=Triangle(), gain=0.3), 0.3),
    ],
    ids=str,
)
def test_slopes_have_the_documented_area(slope: Surrogate, expected: float) -> None:
    """T-LE-4: SuperSpike has peak 1 and area 2/α; a gain multiplies the area."""
    assert area(slope) == pytest.approx(expected, rel=1e-4)


def small() -> SpikingNetwork:
    return with_slope(Chain(16).layers(3).done(4), SuperSpike(alpha=10.0))


def test_nothing_but_the_slopes_changes(tmp_path: Path) -> None:
    snn, x = small(), images(8, 16)
    snn(x)  # statistics of its own
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    curve = snn.eval().unroll(x)
    snn.net.get_submodule("n1_norm").train()
    gradient_norms(snn, x, steps=4)
    slopes = calibrate_gain(snn, x, steps=4)
    assert not snn.training and snn.net.get_submodule("n1_norm").training
    assert torch.equal(snn.eval().unroll(x), curve)
    assert all(torch.equal(value, state[name]) for name, value in snn.state_dict().items())
    assert all(neuron.through is None for _, neuron in snn.neurons())
    assert all(parameter.grad is None for parameter in snn.parameters())
    again = st.load(st.save(snn, tmp_path / "net.safetensors"))
    assert {name: neuron.firing.surrogate for name, neuron in again.neurons()} == slopes


def test_calibrating_twice_scales_once() -> None:
    snn, x = small(), images(8, 16)
    first = calibrate_gain(snn, x, steps=4, tolerance=1e-6)
    second = calibrate_gain(snn, x, steps=4, tolerance=1e-6)
    for name, slope in first.items():
        assert isinstance(slope, Scaled) and isinstance(second[name], Scaled)
        assert slope.surrogate == SuperSpike(alpha=10.0)
        other = second[name]
        assert isinstance(other, Scaled) and other.surrogate == slope.surrogate
        assert other.gain == pytest.approx(slope.gain, rel=1e-4)


def test_a_frozen_network_is_calibrated_too() -> None:
    snn, x = small(), images(8, 16)
    expected = calibrate_gain(snn, x, steps=4)
    frozen = small().requires_grad_(False)
    assert calibrate_gain(frozen, x, steps=4) == expected
    assert gradient_norms(frozen, x, steps=4) == gradient_norms(snn, x, steps=4)


def test_the_rule_keeps_calibrated_slopes_if_asked() -> None:
    snn, x = small(), images(8, 16)
    data = [(x, torch.arange(8))]
    slopes = calibrate_gain(snn, x, steps=4)
    st.tune(snn, data, SurrogateBPTT(surrogate=None), steps=4, epochs=1)
    assert {name: neuron.firing.surrogate for name, neuron in snn.neurons()} == slopes
    st.tune(snn, data, SurrogateBPTT(), steps=4, epochs=1)
    assert {neuron.firing.surrogate for _, neuron in snn.neurons()} == {Sigmoid()}


def test_a_neuron_behind_zeros_is_turned_as_the_others() -> None:
    snn = small()
    nn.init.zeros_(snn.net.get_submodule("n1_norm").weight)  # type: ignore[arg-type]
    # The last neuron is calibrated; the middle one sends nothing, and the first gets nothing.
    found = calibrate_gain(snn, images(8, 16), steps=4)
    gains = [slope.gain for slope in found.values() if isinstance(slope, Scaled)]
    assert gains == pytest.approx([gains[2]] * 3)


def test_a_branch_that_starts_at_zero_is_turned_as_the_others() -> None:
    snn = with_slope(Chain(16).blocks(3).done(4), SuperSpike(alpha=10.0))
    nn.init.zeros_(snn.net.get_submodule("b1_norm").weight)  # type: ignore[arg-type]
    found = calibrate_gain(snn, images(8, 16), steps=4)
    gains = {name: slope.gain for name, slope in found.items() if isinstance(slope, Scaled)}
    others = [gain for name, gain in gains.items() if name != "a1"]
    assert len(gains) == 6
    assert gains["a1"] == pytest.approx(math.exp(np.log(others).mean()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"surrogate": Triangle(), "by": "width", "target": 1e4},
        {"surrogate": Rectangle(width=1e-6), "detach_reset": False},
    ],
    ids=str,
)
def test_a_refused_calibration_leaves_every_slope(wrong: dict[str, Any]) -> None:
    snn = small()
    before = [neuron.firing for _, neuron in snn.neurons()]
    with pytest.raises(TuneError):
        calibrate_gain(snn, images(8, 16), steps=4, **wrong)
    assert [neuron.firing for _, neuron in snn.neurons()] == before


def test_norms_follow_from_the_seed_alone_though_poisson_input_draws() -> None:
    snn, x = small(), images(8, 16)
    before = torch.get_rng_state()
    first = gradient_norms(snn, x, steps=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert gradient_norms(snn, x, steps=4) == first != gradient_norms(snn, x, steps=4, seed=1)


def test_bad_input_is_refused() -> None:
    snn, x = small(), images(8, 16)
    for setting, given in (("target", 0.0), ("tolerance", 1.0), ("by", "depth")):
        with pytest.raises(TuneError, match=f"^{setting} must be"):
            calibrate_gain(snn, x, steps=4, **{setting: given})  # type: ignore[arg-type]
    with pytest.raises(TuneError, match="no images"):
        gradient_norms(snn, x[:0], steps=4)
    with pytest.raises(TuneError, match=r"type list, .* give a batch, next\(iter\(loader\)\)\[0\]"):
        calibrate_gain(snn, [(x, x)], steps=4)  # type: ignore[arg-type]
    with pytest.raises(st.SpiketuneError, match=r"steps must be .* at least 1, not 0"):
        calibrate_gain(snn, x, steps=0)
    with pytest.raises(TuneError, match=r"Linear.*no width.*by=\"gain\""):
        calibrate_gain(snn, x, steps=4, surrogate=Linear(), by="width")
    with pytest.raises(TuneError, match=r"^n2: no width of Triangle"):
        calibrate_gain(small(), x, steps=4, surrogate=Triangle(), by="width", target=1e4)
    with pytest.raises(TuneError, match="fold"):
        calibrate_gain(snn.eval().fold(), x, steps=4)
    snn.drive = 1
    with pytest.raises(TuneError, match="acts at every step"):
        calibrate_gain(snn, x, steps=4)
    with pytest.raises(st.SpiketuneError, match="a gain must be above zero"):
        Scaled(surrogate=Triangle(), gain=0.0)


def test_a_layer_through_which_nothing_comes_is_named() -> None:
    snn, x = small(), images(8, 16)
    dict(snn.neurons())["n2"].threshold.data.fill_(1e6)
    with pytest.raises(TuneError, match=r"^n2: no gradient comes through"):
        calibrate_gain(snn, x, steps=4, surrogate=Rectangle(width=0.5))
    nn.init.zeros_(snn.net.get_parameter("head_weight"))
    with pytest.raises(TuneError, match="no neuron gets a gradient"):
        calibrate_gain(snn, x, steps=4, surrogate=Rectangle(width=0.5))


def test_neurons_without_a_slope_of_their_own_are_refused() -> None:
    """A graded neuron passes gradients straight through, whatever its slope."""
    snn, x = small(), images(8, 16)
    snn.net.set_submodule("n1", Graded(torch.ones(())))
    snn.refresh()
    with pytest.raises(TuneError, match=r"^n1: .*does not follow its slope"):
        calibrate_gain(snn, x, steps=4, target=0.1)


def test_one_neuron_called_twice_is_refused() -> None:
    chain = Chain(16).layers(1)
    chain.last = chain.graph.call_module("n0", (chain.linear("again", chain.last),))
    with pytest.raises(TuneError, match="one neuron called twice"):
        calibrate_gain(chain.done(4), images(8, 16), steps=4)
