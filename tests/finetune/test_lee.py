"""Lee et al.: gradients at rest against matrices, differences and an ANN; the rule as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.finetune import Batch, Lee, SpikeCount, Task, TuneError
from spiketune.finetune.between import common_leak, last_neurons, scales
from spiketune.finetune.lee import traced
from spiketune.finetune.losses import Objective
from spiketune.finetune.rest import Scale, at_rest, rested
from spiketune.finetune.rules import prepare
from spiketune.snn import IF, LIF, Firing, HardReset, Lateral, Neuron, SpikingNetwork
from spiketune.zoo import LateralNeuron

STEPS = 12


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("bare", [False, True])
def test_a_rate_grows_with_a_weight_as_the_mean_trace_over_the_threshold(bare: bool) -> None:
    steps, leak, threshold, inputs = 2000, 0.9, 1.3, 20
    make = torch.Generator().manual_seed(0)
    arriving = (torch.rand(steps, inputs, generator=make, dtype=torch.float64) < 0.3).double()
    neuron = Lateral(double(threshold)[0], leak=leak, bare=True)

    def rate(more: float) -> float:
        weights = torch.full((inputs,), 0.05, dtype=torch.float64)
        weights[0] += more
        return neuron((arriving @ weights).view(-1, 1, 1))[0].mean().item()

    slope = (rate(0.2) - rate(-0.2)) / 0.4
    # The mean trace of a train over all steps is its rate times 1/(1 - λ), for both trains.
    mean = arriving[:, 0].mean().item()
    assert slope == pytest.approx(mean / threshold, rel=0.05)
    rule = Lateral(double(threshold)[0], leak=leak, bare=bare)
    current = double(0.3)[None].requires_grad_()
    rested(rule, current, double(0.25)[None]).backward(torch.ones(1, 1, dtype=torch.float64))
    assert current.grad is not None
    found = current.grad.item() * mean / (1 if bare else threshold)  # of θ s the rate is one θth
    assert slope == pytest.approx(found, rel=0.05)


def answer(z: Tensor, threshold: Tensor, share: Tensor, fired: Tensor) -> Tensor:
    """Solve one group for what its neurons send at rest, those that are silent left out."""
    inside = torch.outer(fired, fired)
    matrix = torch.eye(len(z), dtype=z.dtype) + share * (inside - torch.diag(fired))
    return torch.linalg.solve(matrix, fired * z / threshold)


@pytest.mark.parametrize("silent", [0, 2])
@pytest.mark.parametrize("bare", [False, True])
def test_all_gradients_are_those_of_the_group_s_equation(bare: bool, silent: int) -> None:
    make = torch.Generator().manual_seed(1)
    z = (1 + torch.rand(7, generator=make, dtype=torch.float64)).requires_grad_()
    threshold = (0.5 + torch.rand(7, generator=make, dtype=torch.float64)).requires_grad_()
    share = double(0.2)[0].requires_grad_()
    fired = torch.ones(7, dtype=torch.float64)
    fired[:silent] = 0
    g = torch.randn(7, generator=make, dtype=torch.float64)
    trace = answer(z, threshold, share, fired)
    sent = trace if bare else threshold * trace
    expected = torch.autograd.grad(sent, (z, threshold, share), g)  # through the solver
    neuron = Lateral(threshold, leak=0.9, inhibition=share, bare=bare)
    neuron.requires_grad_()
    current = z.detach()[None].clone().requires_grad_()
    rested(neuron, current, sent.detach()[None]).backward(g[None])
    found = (current.grad, neuron.threshold.grad, neuron.inhibition.grad)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one.view_as(other), other, rtol=1e-12, atol=1e-14)


def test_pixels_are_groups_of_their_own() -> None:
    make = torch.Generator().manual_seed(2)
    trace = torch.rand(2, 4, 3, generator=make, dtype=torch.float64) + 0.1
    grad = torch.randn(2, 4, 3, generator=make, dtype=torch.float64)
    one, share = double(1.0)[0], double(0.3)[0]
    neuron = Lateral(one, leak=0.9, inhibition=share, group="pixel")
    found = at_rest(grad, trace, one, share, neuron.in_group)
    for image in range(2):
        for pixel in range(3):
            here = (image, slice(None), pixel)
            alone = at_rest(
                grad[here][None], trace[here][None], one, share,
                Lateral(one, leak=0.9).in_group,
            )  # fmt: skip
            for part, other in zip(found, alone, strict=True):
                torch.testing.assert_close(part[here], other[0])


def network(
    kind: Any = None, *, last: bool = True, layers: int = 2, factor: float = 1.0
) -> SpikingNetwork:
    torch.manual_seed(0)
    hidden = [nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2)]
    hidden += [nn.Conv2d(4, 4, 2), nn.ReLU()] if layers > 2 else []
    size = 4 * (9 if layers == 2 else 4)
    ann = nn.Sequential(*hidden, nn.Flatten(), nn.Linear(size, 3, bias=False))
    if last:
        ann.append(nn.ReLU())
    snn = st.twin(ann, STEPS, (1, 8, 8), neuron=kind or LateralNeuron(leak=0.9, inhibition=0.1))
    for name, parameter in snn.net.named_parameters():
        if name.endswith("weight"):
            parameter.data.mul_(4 * factor)
    return snn


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def gradients(
    snn: SpikingNetwork, rule: Lee, *, loss: Any = None, x: Tensor | None = None
) -> dict[str, Tensor]:
    x = images() if x is None else x
    training = st.Training() if loss is None else st.Training(loss=loss)
    with Objective(snn, training, steps=STEPS) as criterion:
        learn = prepare(snn, rule, Task(steps=STEPS, criterion=criterion))
        learn(Batch(x, torch.arange(len(x)) % 3))
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [st.LeakyNeuron(leak=0.9), st.PlainNeuron()], ids=["LIF", "IF"])
def test_without_inhibition_it_is_the_backpropagation_of_relus_on_traces(kind: Any) -> None:
    snn = network(kind, layers=3)
    leak = common_leak(snn, "Lee")
    found = gradients(snn, Lee(wake=False))
    outputs, traces = traced(snn, images(), STEPS, leak)
    first, second, last = (traces[name] for name, _ in snn.neurons())
    assert 0.1 < (first > 0).float().mean() < 0.95  # silent ones too
    held = dict(snn.net.named_parameters())
    weights = {name: held[name].detach().requires_grad_() for name in held if "weight" in name}
    bias = held["3.bias"].detach().requires_grad_()

    def masked(z: Tensor, trace: Tensor) -> Tensor:
        passed = z * (trace > 0)
        return passed + (trace - passed).detach()

    h = masked(functional.conv2d(images(), weights["0.weight"]), first)
    h = functional.avg_pool2d(h, 2)
    h = masked(functional.conv2d(h, weights["3.weight"], bias), second)
    y = masked(functional.linear(h.flatten(1), weights["6.weight"]), last)
    y = outputs.mean(0) + (y - y.detach())  # the loss saw the mean of the spikes
    functional.cross_entropy(y, torch.arange(6) % 3).backward()
    for name, weight in {**weights, "3.bias": bias}.items():
        assert weight.grad is not None and bool(weight.grad.any())
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-5, atol=1e-6)
    thresholds = [grad for name, grad in found.items() if "threshold" in name]
    assert len(thresholds) == 3  # none moves: what it sends does not depend on them
    assert all(grad.abs().max() < 1e-6 for grad in thresholds)


def test_traces_are_weighted_sums_over_the_steps() -> None:
    snn, sent = network(), dict[str, list[Tensor]]()
    with torch.no_grad():
        snn.unroll(images(), STEPS, monitor=lambda name, out: sent.setdefault(name, []).append(out))
    outputs, traces = traced(snn, images(), STEPS, 0.9)
    weights = 0.9 ** torch.arange(STEPS - 1.0, -1, -1)
    for name, parts in sent.items():
        whole = torch.cat(parts)
        expected = (whole * weights.view(-1, *[1] * (whole.dim() - 1))).sum(0) / weights.sum()
        torch.testing.assert_close(traces[name], expected)
    assert torch.equal(outputs, torch.cat(list(sent.values())[-1]))


@pytest.mark.parametrize("tau", [None, 3.0])
def test_frames_and_synapses_say_what_they_sent(tau: float | None) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU())
    snn = st.twin(ann, STEPS, (6,), leak=0.9)
    snn.net.get_parameter("0.weight").data.abs_()
    if tau is not None:
        st.add_synapses(snn, tau)
    st.add_frames(snn, STEPS)
    x = (torch.rand(6, STEPS, 6) < 0.5).float()
    (found,) = gradients(snn, Lee(thresholds="fixed"), x=x).values()
    outputs, _ = traced(snn, x, STEPS, 0.9)
    y = outputs.mean(0).requires_grad_()
    functional.cross_entropy(y, torch.arange(6) % 3).backward()
    weights = 0.9 ** torch.arange(STEPS - 1.0, -1, -1)
    met = torch.einsum("t,bti->bi", weights / weights.sum(), x)
    assert y.grad is not None
    torch.testing.assert_close(found, y.grad.T @ met)


@pytest.mark.parametrize("bare", [False, True])
def test_the_paper_s_scale_is_the_paper_s_formula(bare: bool) -> None:
    kind = LateralNeuron(leak=0.9, inhibition=0.0, bare=bare)
    snn, plain = network(kind), network(kind)
    for one in (snn, plain):
        for k, (_, neuron) in enumerate(one.neurons()):
            neuron.threshold.data.fill_(0.8 + 0.4 * k)
    found = gradients(snn, Lee(scale="paper", wake=False, train_inhibition=False))
    unscaled = gradients(plain, Lee(wake=False, train_inhibition=False))
    _, traces = traced(snn, images(), STEPS, 0.9)
    hidden, last = (traces[name] for name, _ in snn.neurons())
    outputs, _ = traced(snn, images(), STEPS, 0.9)
    y = outputs.mean(0).requires_grad_()
    functional.cross_entropy(y, torch.arange(6) % 3).backward()
    # One threshold a layer: g/g_rms is 1. Layer 2: N = 36, M = 3; layer 1: N = 9, M = 144.
    assert y.grad is not None
    error = y.grad * (last > 0)
    m2 = (last > 0).sum(1).clamp_min(1).view(-1, 1)
    weight = snn.net.get_parameter("4.weight").detach()
    pooled = functional.avg_pool2d(hidden, 2).flatten(1)
    of_last = ((36 / m2) ** 0.5 * error).T @ pooled
    torch.testing.assert_close(found["4.weight"], of_last)
    down = ((3 / m2) ** 0.5 * error) @ weight
    at_hidden = functional.interpolate(down.view(-1, 4, 3, 3), scale_factor=2) / 4 * (hidden > 0)
    m1 = (hidden > 0).flatten(1).sum(1).view(-1, 1, 1, 1)
    first = torch.nn.grad.conv2d_weight(images(), (4, 1, 3, 3), (9 / m1) ** 0.5 * at_hidden)
    torch.testing.assert_close(found["0.weight"], first)
    if bare:  # Δθ ~ √(N/(m M)) δ a
        name = next(name for name in found if "threshold" in name and found[name].dim() == 1)
        rise = -((36 / (m2 * 3)) ** 0.5 * error * last).sum(0)
        torch.testing.assert_close(found[name], rise)
        assert not torch.allclose(unscaled[name], rise)


def test_scales_count_inputs_and_neurons() -> None:
    found = scales(network(layers=3))
    assert list(found.values()) == [
        Scale(inputs=9, neurons=144, behind=(16 / 16) ** 0.5),
        Scale(inputs=16, neurons=16, behind=(3 / 16) ** 0.5),
        Scale(inputs=16, neurons=3, behind=1.0),
    ]
    assert last_neurons(network(last=False)) == set()


def test_winners_raise_their_thresholds_and_the_mean_stays() -> None:
    kind = LateralNeuron(leak=0.9, inhibition=0.3)
    pulled = gradients(network(kind), Lee(homeostasis=1e-2))
    plain = gradients(network(kind), Lee())
    _, traces = traced(network(kind), images(), STEPS, 0.9)
    won = (next(iter(traces.values())) > 0).float()
    assert 0.1 < won.mean() < 0.9
    name = next(name for name in plain if "threshold" in name and plain[name].dim() == 3)
    step = plain[name] - pulled[name]  # downhill
    expected = 1e-2 * (won - won.flatten(1).mean(1).view(-1, 1, 1, 1)).mean(0)
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)
    assert abs(float(expected.sum())) < 1e-6


def test_homeostasis_spreads_a_layer_s_spikes() -> None:
    snn = network(LateralNeuron(leak=0.9, inhibition=0.3))
    for name, parameter in snn.net.named_parameters():
        parameter.requires_grad_("threshold" in name)
    first = next(iter(snn.neurons()))[0]
    before = traced(snn, images(), STEPS, 0.9)[1][first]
    training = st.Training(
        optimizer="sgd", learning_rate=1.0, weight_decay=0.0, warmup=0.0, clip_grad=None
    )
    rule = Lee(homeostasis=0.05, train_inhibition=False)
    batch = (images(), torch.arange(6) % 3)
    st.tune(snn, [batch], rule, steps=STEPS, epochs=20, training=training)
    after = traced(snn, images(), STEPS, 0.9)[1][first]
    # Of how many images a neuron is among the winners: more alike than before.
    assert (after > 0).float().mean(0).std() < 0.8 * (before > 0).float().mean(0).std()


def test_winners_of_a_pixel_are_told_from_its_channels() -> None:
    kind = LateralNeuron(leak=0.9, inhibition=0.3, group="pixel")
    pulled, plain = (gradients(network(kind), Lee(homeostasis=rho)) for rho in (1e-2, 0.0))
    _, traces = traced(network(kind), images(), STEPS, 0.9)
    won = (next(iter(traces.values())) > 0).float()
    assert 0.1 < won.mean() < 0.9
    name = next(name for name in plain if "threshold" in name and plain[name].dim() == 3)
    expected = 1e-2 * (won - won.mean(1, keepdim=True)).mean(0)
    torch.testing.assert_close(plain[name] - pulled[name], expected, rtol=1e-4, atol=1e-6)


def test_growth_pulls_at_every_weight() -> None:
    growth = st.WeightGrowth(strength=3.0, steepness=0.5, scale=0.7)
    pulled, plain = (gradients(network(), Lee(growth=given)) for given in (growth, None))
    for name in ("0.weight", "4.weight"):
        relative = network().net.get_parameter(name).detach() / 0.7
        mean = relative.square().flatten(1).mean(1).view(-1, *[1] * (relative.dim() - 1))
        expected = 3.0 * 0.5 * relative * (0.5 * (mean - 1)).exp()
        torch.testing.assert_close(pulled[name] - plain[name], expected, rtol=1e-4, atol=1e-5)


def test_what_gets_no_gradient_does_not_train() -> None:
    snn = network(st.LeakyNeuron(leak=0.9))
    for _, neuron in snn.neurons():
        assert isinstance(neuron, LIF)
        neuron.leak.requires_grad_()
    found = gradients(snn, Lee())
    assert found.keys() == {name for name, p in snn.net.named_parameters() if p.requires_grad}
    st.add_delays(snn, start=2.0)
    with pytest.raises(TuneError, match=r"2\.delay: a trace does not tell when spikes arrive"):
        gradients(snn, Lee())
    snn.net.get_parameter("2.delay.delay").requires_grad_(False)
    assert gradients(snn, Lee())["0.weight"].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same_gradients() -> None:
    expected = gradients(network(), Lee(homeostasis=1e-2, scale="paper"))
    snn, x = network().cuda(), images().cuda()
    with Objective(snn, st.Training(), steps=STEPS) as criterion:
        learn = prepare(
            snn, Lee(homeostasis=1e-2, scale="paper"), Task(steps=STEPS, criterion=criterion)
        )
        learn(Batch(x, (torch.arange(len(x)) % 3).cuda()))
    for name, gradient in expected.items():
        found = snn.net.get_parameter(name).grad
        assert found is not None
        torch.testing.assert_close(found.cpu(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [LateralNeuron(leak=0.9, inhibition=0.1), LateralNeuron(leak=0.9, bare=True), None],
    ids=["lateral", "bare", "LIF"],
)
@pytest.mark.parametrize(
    "loss", [SpikeCount(hit=8, miss=1), st.MeanCrossEntropy()], ids=["counts", "currents"]
)
def test_hidden_layers_learn(kind: Any, loss: Any) -> None:
    counts = isinstance(loss, SpikeCount)  # the other reads currents, which have no bounds
    snn = network(kind or st.LeakyNeuron(leak=0.9), layers=3, last=counts)
    snn.net.get_parameter("6.weight").requires_grad_(False)
    training = st.Training(learning_rate=2e-2, warmup=0.0, loss=loss)
    batch = (images(24), torch.arange(24) % 3)
    history = st.tune(snn, [batch], Lee(), steps=STEPS, epochs=40, training=training)
    assert min(done.loss for done in history.epochs) < 0.9 * history.epochs[0].loss


def test_a_silent_output_neuron_learns_to_fire_only_where_it_is_woken() -> None:
    for wake in (True, False):
        snn = network()
        snn.net.get_parameter("4.weight").data[0].abs_().neg_()
        found = gradients(snn, Lee(wake=wake), loss=SpikeCount(hit=8, miss=1))
        assert bool(found["4.weight"][0].any()) == wake
        assert bool(found["4.weight"][1:].any())


def test_a_layer_that_never_fires_is_told_and_dark_images_later_are_not() -> None:
    with pytest.raises(TuneError, match=r"\w+: none of its 144 neurons fired on the first batch"):
        gradients(network(factor=1e-3), Lee())
    snn = network()
    with Objective(snn, st.Training(), steps=STEPS) as criterion:
        learn = prepare(snn, Lee(), Task(steps=STEPS, criterion=criterion))
        learn(Batch(images(), torch.arange(6) % 3))
        outcome = learn(Batch(torch.zeros(6, 1, 8, 8), torch.arange(6) % 3))
    assert bool(outcome.loss.isfinite())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in snn.net.parameters())
    always = gradients(network(factor=1e3), Lee())
    assert all(bool(grad.isfinite().all()) for grad in always.values())


def test_thresholds_and_inhibition_train_as_asked_and_stay_in_range(tmp_path: Path) -> None:
    batch = (images(24), torch.arange(24) % 3)
    training = st.Training(learning_rate=0.5, warmup=0.0, clip_grad=None)
    for rule in (Lee(), Lee(thresholds="shared"), Lee(thresholds="fixed", train_inhibition=False)):
        snn = network()
        before = [(n.threshold.detach().clone(), n.inhibition.item()) for n in neurons(snn)]
        st.tune(snn, [batch], rule, steps=STEPS, epochs=4, training=training)
        for neuron, (threshold, share) in zip(neurons(snn), before, strict=True):
            own = rule.thresholds == "own"
            assert (neuron.threshold.dim() > 0) == own
            assert torch.equal(neuron.threshold, threshold) == (rule.thresholds == "fixed")
            assert (neuron.inhibition.item() == share) == (not rule.train_inhibition)
            assert bool((neuron.threshold >= 0.01).all()) and 0 <= neuron.inhibition <= 0.99
        st.save(snn, tmp_path / "snn.safetensors")
        assert torch.equal(st.load(tmp_path / "snn.safetensors")(images()), snn(images()))


def neurons(snn: SpikingNetwork) -> list[Lateral]:
    return [neuron for _, neuron in snn.neurons() if isinstance(neuron, Lateral)]


def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    loader = [(images(8), torch.arange(8) % 3), (images(8).flip(0), torch.arange(8) % 3)]
    settings: dict[str, Any] = {"steps": STEPS, "training": st.Training(warmup=0.0)}
    whole, half = network(), network()
    rule = Lee(homeostasis=1e-3)
    st.tune(whole, loader, rule, epochs=2, **settings)
    file = tmp_path / "run.checkpoint"

    def stop(done: Any) -> None:
        if done.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        st.tune(half, loader, rule, epochs=2, checkpoint=file, on_epoch=stop, **settings)
    again = network()
    st.tune(again, loader, rule, epochs=2, checkpoint=file, resume=True, **settings)
    for name, parameter in whole.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], parameter), name


def test_features_see_the_traces() -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    snn = st.twin(ann, STEPS, (1, 8, 8), leak=0.9)
    snn.net.get_parameter("1.weight").data.mul_(4)
    training = st.Training(features=st.Features(at=("2",)), warmup=0.0)
    batch = (images(12), torch.arange(12) % 3)
    history = st.tune(snn, [batch], Lee(), steps=STEPS, epochs=10, training=training, teacher=ann)
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_what_it_cannot_train_is_refused() -> None:
    task = Task(steps=STEPS, criterion=lambda sent, _: sent.sum())
    refused: list[tuple[SpikingNetwork, str]] = [
        (network(st.ParallelNeuron()), "Lee trains IF, LIF and Lateral neurons, not PSN"),
        (network(st.LeakyNeuron(firing=Firing(reset=HardReset()))), "a hard reset loses"),
        (network(LateralNeuron(inhibition=1.0)), "inhibition=1 a group acts as one"),
    ]
    mixed = network()
    neurons(mixed)[1].leak.data.fill_(0.5)
    refused.append((mixed, r"one leak for all neurons, not 0\.9 \(\w+\) and 0\.5 \(\w+\)"))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3))
    refused.append((st.twin(pooled, 4, (1, 8, 8)), "MaxPool2d is not linear"))
    normed = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()
    )
    refused.append((st.twin(normed, 4, (1, 8, 8)), "BatchNorm.* is not linear"))
    driven = network()
    driven.drive = 2
    refused.append((driven, "drive=2 it ends before"))
    for snn, said in refused:
        with pytest.raises(TuneError, match=said):
            prepare(snn, Lee(), task)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"thresholds": "all"}, "own, shared or fixed"),
        ({"scale": "half"}, "none or paper"),
        ({"homeostasis": -1.0}, "0 or more"),
        ({"homeostasis": "1"}, "0 or more, not '1'"),
        ({"homeostasis": True}, "0 or more, not True"),
        ({"wake": "no"}, "wake must be True or False, not 'no'"),
        ({"train_inhibition": None}, "train_inhibition must be True or False"),
        ({"growth": 0.1}, r"growth must be WeightGrowth\(\.\.\.\) or None, not 0\.1"),
        ({"homeostasis": 0.1, "thresholds": "shared"}, "thresholds='own'"),
    ]
    for given, said in wrong:
        with pytest.raises(TuneError, match=said):
            Lee(**given)


def test_kinds_of_neurons() -> None:
    plain: Neuron = IF(torch.tensor(1.0))
    for neuron in (plain, LIF(torch.tensor(1.0), leak=0.5)):
        current = torch.tensor([[1.0, 2.0]], requires_grad=True)
        rested(neuron, current, torch.tensor([[0.0, 0.5]])).sum().backward()
        assert current.grad is not None and current.grad.tolist() == [[0.0, 1.0]]
