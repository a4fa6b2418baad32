"""Spiking twins: BatchNorm over time by hand, what is refused, what trains."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import IF, LIF
from spiketune.zoo import ModelError, NeuronKind

STEPS = 5


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(4, eps=1e-3)
        self.c = nn.Linear(64, 6)
        self.norm_c = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_a(self.a(x)))
        x = nn.functional.max_pool2d(torch.relu(self.norm_b(self.b(x))), 2)
        return self.head(torch.relu(self.norm_c(self.c(x.flatten(1)))))


def lif(current: Tensor, leak: float) -> Tensor:
    """Soft reset, threshold 1, from rest: ``current [T, B, ...]``."""
    v, out = torch.zeros_like(current[0]), []
    for c in current:
        v = leak * v + c
        s = (v >= 1).to(v.dtype)
        v = v - s
        out.append(s)
    return torch.stack(out)


def normed(z: Tensor, norm: nn.Module, training: bool) -> Tensor:
    """BatchNorm of ``z [T, B, ...]`` with one mean and variance for all steps, by hand."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    other = [dim for dim in range(z.dim()) if dim != 2]
    shape = (-1, *[1] * (z.dim() - 3))
    mean, var = z.mean(other), z.var(other, unbiased=False)
    if not training:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = norm.running_mean, norm.running_var
    z = (z - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt()
    return z * norm.weight.view(shape) + norm.bias.view(shape)


def per_step(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([layer(now) for now in x])


@torch.no_grad()
def by_hand(net: Small, x: Tensor, leak: float, training: bool) -> tuple[Tensor, Tensor]:
    """Return the mean answer, and the second BatchNorm's input over time."""
    now = x.expand(STEPS, *x.shape)
    a = lif(normed(per_step(net.a, now), net.norm_a, training), leak)
    z = per_step(net.b, a)
    b = per_step(nn.MaxPool2d(2), lif(normed(z, net.norm_b, training), leak))
    c = lif(normed(per_step(net.c, b.flatten(2)), net.norm_c, training), leak)
    return per_step(net.head, c).mean(0), z


def network() -> Small:
    net = Small().double()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 1.0, 2.0)
            nn.init.uniform_(module.bias, 0.0, 1.0)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.1, 0.5)
    return net


@pytest.mark.parametrize("leak", [1.0, 0.75])
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_batch_norm_shares_its_statistics_over_time(leak: float, training: bool) -> None:
    net, x = network(), torch.rand(6, 1, 8, 8, dtype=torch.float64)
    snn = st.twin(net, STEPS, (1, 8, 8), leak=leak).train(training)
    expected, z = by_hand(net, x, leak, training)
    found = snn(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0
    if training:
        norm = snn.net.get_submodule("norm_b.norm")
        folded = z.flatten(0, 1)
        mean = 0.9 * net.norm_b.running_mean + 0.1 * folded.mean((0, 2, 3))
        var = 0.9 * net.norm_b.running_var + 0.1 * folded.var((0, 2, 3), unbiased=True)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-9, atol=1e-9)


KINDS = (st.PlainNeuron(), st.ParametricNeuron(), st.ParallelNeuron())


@pytest.mark.parametrize("neuron", KINDS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("norm", [st.SharedBN(), st.TDBN(), st.TEBN()], ids=str)
def test_the_twin_of_a_double_network_is_double(neuron: NeuronKind, norm: st.Norm) -> None:
    net = network()
    snn = st.twin(net, STEPS, (1, 8, 8), neuron=neuron, norm=norm)
    tensors = [value for value in snn.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in tensors} == {torch.float64}
    for name, mean in net.state_dict().items():
        if name.endswith("running_mean"):  # not rounded on the way
            assert any(value.shape == mean.shape and torch.equal(value, mean) for value in tensors)
    x, labels = torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    history = st.tune(snn, [(x, labels)], st.SurrogateBPTT(), steps=STEPS, epochs=1)
    assert history.epochs[0].loss > 0 and snn(x).dtype == torch.float64


def test_every_norm_is_a_module_that_trains() -> None:
    snn = st.twin(Small(), STEPS, (1, 8, 8))
    norms = [m for m in snn.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert [type(norm).__name__ for norm in norms] == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d"]
    assert snn.training and all(norm.training for norm in norms)
    assert [norm.eps for norm in norms] == [1e-5, 1e-3, 1e-5]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    snn(torch.rand(8, 1, 8, 8)).square().sum().backward()
    for norm, mean in zip(norms, before, strict=True):
        assert norm.running_mean is not None and not torch.equal(norm.running_mean, mean)
        assert norm.weight.requires_grad and norm.weight.grad is not None
    assert all(p.grad is not None for n, p in snn.named_parameters() if p.requires_grad)


def test_a_norm_keeps_its_momentum() -> None:
    net = Small()
    net.norm_b.momentum = 0.01
    norm = st.twin(net, STEPS, (1, 8, 8)).net.get_submodule("norm_b.norm")
    assert isinstance(norm, nn.BatchNorm2d) and norm.momentum == 0.01


def test_a_norm_without_statistics_is_refused_or_kept() -> None:
    net = Small().eval()
    net.norm_b = nn.BatchNorm2d(4, track_running_stats=False).eval()
    try:
        snn = st.twin(net, STEPS, (1, 8, 8))
    except st.ConversionError:
        return
    norm = snn.net.get_submodule("norm_b.norm")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None


@pytest.mark.parametrize(("leak", "kind"), [(1.0, IF), (0.5, LIF)])
def test_leak_chooses_the_neuron(leak: float, kind: type) -> None:
    snn = st.spiking("test_resnet", 7, 3, in_chans=1, image_size=32, leak=leak)
    units = [unit for _, unit in snn.neurons()]
    assert {type(unit) for unit in units} == {kind}
    assert all(float(unit.threshold) == 1.0 for unit in units)
    if kind is LIF:
        assert all(float(unit.leak) == 0.5 for unit in units)
    assert snn.training and snn.steps == 3
    assert snn(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(st.SpiketuneError):
        snn(torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize("leak", [0.0, -0.1, 1.5])
def test_a_leak_outside_its_range_is_refused(leak: float) -> None:
    with pytest.raises(ValueError, match="leak"):
        st.twin(Small(), 3, (1, 8, 8), leak=leak)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ModelError, match="resnet18") as caught:
        st.spiking("resnet_18", 10, 4)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        st.spiking("nothing at all like a name", 10, 4)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_networks_without_a_relu_are_refused(name: str) -> None:
    assert timm.is_model(name)
    with pytest.raises(st.ConversionError, match="nothing would spike") as caught:
        st.spiking(name, 10, 4)
    assert "ReLU" in caught.value.remedy and "convert" not in caught.value.remedy


def test_less_than_one_step_is_refused() -> None:
    with pytest.raises(st.SpiketuneError, match="at least 1"):
        st.twin(Small(), 0, (1, 8, 8))


@torch.no_grad()
def test_maxima_of_spikes_stay_spikes() -> None:
    net = network()
    snn = st.twin(net, STEPS, (1, 8, 8)).eval()
    seen: dict[str, set[float]] = {}
    snn.unroll(
        torch.rand(4, 1, 8, 8, dtype=torch.float64),
        monitor=lambda name, out: seen.setdefault(name, set()).update(out.unique().tolist()),
    )
    pools = [found for name, found in seen.items() if "max_pool" in name]
    assert len(pools) == 1 and pools[0] == {0.0, 1.0}
    assert all(found <= {0.0, 1.0} for found in seen.values())


def test_the_weights_are_copies() -> None:
    net = Small()
    snn = st.twin(net, STEPS, (1, 8, 8))
    before = [p.clone() for p in net.parameters()]
    with torch.no_grad():
        for parameter in snn.parameters():
            parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
