"""Reading: however a network is written, its graph computes the same, and it stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.snn import ConversionError, Program, SpiketuneError, read

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        self.rule = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


def of(body: Forward) -> Net:
    """Return a network with ``body`` between a first layer and a head, in evaluation mode."""
    return Net(lambda m, x: m.head(body(m, m.a(x)).mean((2, 3)))).eval()


def overwritten_later(m: Net, y: Tensor) -> Tensor:
    z = m.b(y)
    kept = y * 2
    return torch.relu_(z) + kept + z


def through_a_view(m: Net, y: Tensor) -> Tensor:
    y.flatten(1).relu_()
    return m.b(y)


def seen_through_a_view(m: Net, y: Tensor) -> Tensor:
    flat = y.view(y.shape[0], -1)
    y.relu_()
    return m.b(y) + flat.view(y.shape)


def through_a_slice(m: Net, y: Tensor) -> Tensor:
    y[:, :2].relu_()
    return torch.relu(m.b(y))


def through_a_chunk(m: Net, y: Tensor) -> Tensor:
    first, _ = y.chunk(2, 1)
    first.relu_()
    return torch.relu(m.b(y))


def added_in_place(m: Net, y: Tensor) -> Tensor:
    z = torch.relu(m.b(y))
    z += y
    return m.inplace(z)


WRITTEN: dict[str, tuple[Forward, int]] = {
    "a module": (lambda m, y: m.act(y), 1),
    "a function": (lambda m, y: functional.relu(y), 1),
    "a method": (lambda m, y: y.relu(), 1),
    "a clamp": (lambda m, y: y.clamp(min=0), 1),
    "a clamp_min": (lambda m, y: y.clamp_min(0), 1),
    "in place": (lambda m, y: m.inplace(m.b(m.inplace(y))), 2),
    "shared": (lambda m, y: m.act(m.b(m.act(m.b(m.act(y))))), 3),
    "in a loop": (lambda m, y: [y := torch.relu(m.b(y)) for _ in range(4)][-1], 4),
    "overwritten later": (overwritten_later, 1),
    "seen through a view": (seen_through_a_view, 1),
    "added in place": (added_in_place, 2),
    "relu6": (lambda m, y: functional.relu6(y), 1),
    "hardtanh": (lambda m, y: functional.hardtanh(y, 0.0, 2.0), 1),
    "a clamp from both sides": (lambda m, y: y.clamp(0, 1), 1),
    "batch size by name": (lambda m, y: m.act(y).reshape(y.shape[0], 2, -1).view(y.shape), 1),
}


@pytest.mark.parametrize("name", WRITTEN)
@torch.no_grad()
def test_each_call_of_an_activation_becomes_one_neuron(name: str) -> None:
    body, neurons = WRITTEN[name]
    net, x = of(body), torch.rand(6, 1, 8, 8)
    expected = net(x.clone())
    graph = read(net, x)
    torch.testing.assert_close(Program(graph.graph, graph).ann(x), expected)
    snn = st.to_snn(net, x, st.Ternary(threshold=st.Max(), encode=False))
    assert snn.report.neurons == neurons == len({id(unit) for _, unit in snn.neurons()})
    torch.testing.assert_close(snn.ann(x[:3]), net(x[:3].clone()))


@pytest.mark.parametrize("body", [through_a_slice, through_a_view, through_a_chunk])
@torch.no_grad()
def test_a_write_to_part_of_a_tensor_is_seen_or_refused(body: Forward) -> None:
    net, x = of(body), torch.rand(4, 1, 8, 8)
    graph = read(net, x)
    try:
        found = Program(graph.graph, graph).ann(x)
    except Exception:
        pytest.fail("read but cannot run")
    torch.testing.assert_close(found, net(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("verb", ["check", "to_snn", "twin"])
def test_the_network_given_stays_as_it_was(verb: str, training: bool) -> None:
    net = of(lambda m, y: functional.dropout(m.act(m.norm(y)), 0.5, m.training))
    x = torch.rand(6, 1, 8, 8)
    net.train()(x)  # running statistics that are not the initial ones
    net.train(training)
    net.norm.eval()
    net.head.weight.requires_grad_(False)
    calls: list[int] = []
    net.act.register_forward_hook(lambda *_: calls.append(1))
    hooks = len(net.act._forward_hooks)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    made = {
        "check": lambda: st.check(net, x),
        "to_snn": lambda: st.to_snn(net, x, st.Ternary()),
        "twin": lambda: st.twin(net, 4, (1, 8, 8)),
    }[verb]()
    if isinstance(made, nn.Module):
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(1)
        made.train()(x)
    assert [module.training for module in net.modules()] == modes
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not net.head.weight.requires_grad and net.a.weight.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert len(net.act._forward_hooks) == hooks
    if verb != "twin":
        assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("verb", [st.check, lambda n, x: st.to_snn(n, x, st.Binary())])
def test_a_network_that_fails_to_read_keeps_its_mode(verb: Callable[..., object]) -> None:
    net = Net(lambda m, x: m.a(x) if x.sum() > 0 else x).train()
    with pytest.raises(ConversionError):
        verb(net, torch.rand(2, 1, 8, 8))
    assert all(module.training for module in net.modules())


UNREADABLE: dict[str, Callable[[Net, Tensor], object]] = {
    "a number beside a tensor": lambda m, x: (m.act(m.a(x)), 3),
    "a dictionary without names": lambda m, x: {0: m.act(m.a(x)), 1: x},
    "its batch size": lambda m, x: m.head(m.act(m.a(x)).mean((2, 3))).reshape(2, 3),
    "control flow": lambda m, x: m.act(m.a(x)) if x.sum() > 0 else x,
    "numpy": lambda m, x: torch.from_numpy(m.a(x).detach().numpy()),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_sentence(name: str) -> None:
    net = Net(UNREADABLE[name]).eval()  # type: ignore[arg-type]
    with pytest.raises(ConversionError) as caught:
        st.to_snn(net, torch.rand(2, 1, 8, 8), st.Ternary())
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8), (2, 1, 1)])
def test_images_of_another_kind_are_refused_in_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpiketuneError) as caught:
        st.to_snn(of(lambda m, y: m.act(y)), torch.rand(shape), st.Ternary())
    assert "\n" not in str(caught.value) and str(list(shape[1:]))[1:-1] in str(caught.value)


BATCH_MIXING: dict[str, Forward] = {
    "mean over the batch": lambda m, y: m.act(y) - m.act(y).mean(0, keepdim=True),
    "first image": lambda m, y: m.act(y) + m.act(y)[:1],
    "one image": lambda m, y: m.act(y) + m.act(y)[0],
    "batch size as a number": lambda m, y: m.act(y) * y.shape[0],
    "everything": lambda m, y: m.act(y) + m.act(y).mean(),
    "rolled": lambda m, y: m.act(y).roll(1, 0),
}


@pytest.mark.parametrize("name", BATCH_MIXING)
def test_a_network_that_mixes_images_is_refused(name: str) -> None:
    with pytest.raises(ConversionError):
        st.to_snn(of(BATCH_MIXING[name]), torch.rand(4, 1, 8, 8), st.Ternary())


def test_the_graph_names_the_modules_it_came_from() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU()))

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.stage(x))

    graph = read(Outer(), torch.rand(2, 1, 8, 8)).graph
    paths = [n.meta["path"] for n in graph.nodes if n.op == "call_function"]
    assert paths == ["stage.0", "stage.1.0", ""]


def test_tied_weights_stay_tied() -> None:
    net = of(lambda m, y: m.act(m.b(m.act(m.b(y)))))
    graph = read(net, torch.rand(2, 1, 8, 8))
    assert sum(p.shape == (4, 4, 3, 3) for p in graph.parameters()) == 1


def test_a_hardtanh_with_its_default_ceiling() -> None:
    net = of(lambda m, y: torch.nn.functional.hardtanh(4 * y, 0.0)).eval()
    snn = st.to_snn(net, torch.rand(4, 1, 8, 8), st.Ternary())
    (neuron,) = (unit for _, unit in snn.neurons())
    assert neuron.ceiling == 1.0
