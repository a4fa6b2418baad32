"""SLAYER against a network whose kernels are matrices and whose weights see responses."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import spiketune as st
from spiketune.finetune import OTTT, SLAYER, SLTT, Batch, Rule, SurrogateBPTT, Task, TuneError
from spiketune.finetune.losses import Objective
from spiketune.finetune.rules import outputs, prepare
from spiketune.snn import SRM, Delay, Laplace, SpikingNetwork, alpha_filter

STEPS, TAUS, DEPTH = 15, (3.0, 1.5), 1.7
SLOPE = Laplace(scale=0.7, width=0.8)
COUNTS = st.SpikeCount(hit=6, miss=1)


def network(*, convolution: bool, delays: bool = True, steps: int = STEPS) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    width = 3 * 3 * 3
    if not convolution:
        layers, width = [nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU()], 12
    ann = nn.Sequential(*layers, nn.Linear(width, 4, bias=False), nn.ReLU()).double()
    for weight in ann.parameters():
        weight.data.mul_(2.0)
    neuron = st.SRMNeuron(tau_synapse=TAUS[0], tau_refractory=TAUS[1], refractory=DEPTH)
    snn = st.twin(ann, steps, (1, 8, 8), neuron=neuron)
    if delays:
        st.add_delays(snn, start=(0, 4), maximum=6, diff="backward")
    st.add_frames(snn, steps)
    return snn


def events(steps: int = STEPS) -> Batch:
    make = torch.Generator().manual_seed(1)
    x = (torch.rand(6, steps, 1, 8, 8, generator=make) < 0.15).double()
    return Batch(x, torch.arange(6) % 4)


def gradients(
    snn: SpikingNetwork, rule: Rule, batch: Batch, loss: st.finetune.Loss = COUNTS
) -> dict[str, Tensor]:
    steps = batch.images.shape[1]
    training = st.Training(loss=loss)
    with Objective(snn, training, steps=steps) as criterion:
        task = Task(steps=steps, criterion=criterion, begun=lambda: True)
        prepare(snn, rule, task)(batch)
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


def matrix(tau: float, scale: float = 1.0) -> Tensor:
    n = torch.arange(STEPS, dtype=torch.float64)
    lag = n[:, None] - n
    return scale * (lag.clamp_min(0) / tau * (1 - lag / tau).exp())


def over_time(by: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ts,s...->t...", by, x)


def fired(response: Tensor, *, refractory: bool) -> Tensor:
    """Return spikes with the integral of the slope behind them, for autograd to differ."""
    after, sent = matrix(TAUS[1], -DEPTH), []
    for t in range(STEPS):
        # A list, not a recursion: every spike before counts by itself.
        earlier = [after[t, k] * (s if refractory else s.detach()) for k, s in enumerate(sent)]
        distance = sum(earlier, response[t]) - 1
        falls = (-distance.abs() / SLOPE.width).exp()
        area = SLOPE.scale * torch.where(distance < 0, falls, 2 - falls)
        sent.append((distance >= 0).double() + area - area.detach())
    return torch.stack(sent)


def reference(
    snn: SpikingNetwork, batch: Batch, *, convolution: bool, refractory: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Return gradients of weights and delays; the weights see responses, not spikes."""
    weights = [p for name, p in snn.net.named_parameters() if name.endswith("weight")]
    first, last = (p.detach().clone().requires_grad_() for p in weights)
    response = over_time(matrix(TAUS[0]), batch.images.transpose(0, 1))
    folded = response.flatten(0, 1)
    if convolution:
        current = functional.conv2d(folded, first)
    else:
        current = functional.linear(folded.flatten(1), first)
    sent = fired(current.unflatten(0, (STEPS, 6)), refractory=refractory)
    unit = next((unit for unit in snn.modules() if isinstance(unit, Delay)), None)
    by = torch.zeros(sent.shape[2]) if unit is None else unit.delay.detach().floor().flatten()
    rows = []
    for channel, steps in enumerate(by.long().tolist()):
        part = sent[: STEPS - steps, :, channel]
        rows.append(torch.cat([torch.zeros_like(sent[:steps, :, channel]), part]))
    late = torch.stack(rows, 2)
    late.retain_grad()
    folded = late.flatten(0, 1)
    pooled = functional.avg_pool2d(folded, 2).flatten(1) if convolution else folded
    response = over_time(matrix(TAUS[0]), pooled.unflatten(0, (STEPS, 6)))
    answers = fired(functional.linear(response, last), refractory=refractory)
    goal = 1 + 5 * functional.one_hot(batch.labels, 4)
    ((answers.sum(0) - goal).square().sum() / 12).backward()
    assert late.grad is not None and first.grad is not None and last.grad is not None
    change = late.detach() - torch.cat([torch.zeros_like(late[:1]), late[:-1]]).detach()
    delays = -(late.grad * change).transpose(0, 2).flatten(1).sum(1)
    names = [name for name, _ in snn.net.named_parameters() if name.endswith("weight")]
    return dict(zip(names, (first.grad, last.grad), strict=True)), delays


@pytest.mark.parametrize("refractory", [False, True], ids=["SLAYER", "EXODUS"])
@pytest.mark.parametrize("convolution", [False, True], ids=["dense", "convolution"])
def test_gradients_are_those_of_kernels_written_out(convolution: bool, refractory: bool) -> None:
    snn, batch = network(convolution=convolution), events()
    found = gradients(snn, SLAYER(slope=SLOPE, refractory=refractory), batch)
    expected, delays = reference(snn, batch, convolution=convolution, refractory=refractory)
    for name, gradient in expected.items():
        assert gradient.any()
        torch.testing.assert_close(found.pop(name), gradient, rtol=1e-9, atol=1e-11)
    (late,) = found.values()  # the thresholds are constants
    assert delays.any()
    torch.testing.assert_close(late.flatten(), delays, rtol=1e-9, atol=1e-11)


def test_it_is_backpropagation_through_time_with_the_escape_rate() -> None:
    batch = events()
    found = gradients(network(convolution=True), SLAYER(slope=SLOPE), batch)
    plain = SurrogateBPTT(surrogate=SLOPE, train_thresholds=False)
    expected = gradients(network(convolution=True), plain, batch)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    other = gradients(network(convolution=True), SLAYER(slope=SLOPE, refractory=True), batch)
    assert not torch.allclose(found["0.weight"], other["0.weight"], rtol=1e-3)


def test_a_count_in_a_window_sends_the_same_error_to_every_step_of_it() -> None:
    """SLAYER's loss of spike numbers: ``(count - desired)/window`` at every step."""
    snn = network(convolution=False)
    with Objective(snn, st.Training(loss=replace(COUNTS, per_step=True)), steps=STEPS) as loss:
        make = torch.Generator().manual_seed(2)
        outputs = (torch.rand(STEPS, 6, 4, generator=make) < 0.4).double().requires_grad_()
        batch = events()
        (found,) = torch.autograd.grad(loss(outputs, batch), outputs)
    goal = 1 + 5 * functional.one_hot(batch.labels, 4)
    error = (outputs.detach().sum(0) - goal) / STEPS / 6  # the mean over six images
    torch.testing.assert_close(found, error.expand_as(found), rtol=1e-12, atol=0)


def test_spike_times_send_back_the_filtered_distance_through_the_adjoint() -> None:
    """``L = ½ |ε * (s - ŝ)|²`` of spike times wanted, its gradient ``ε ⋆ (ε * (s - ŝ))``."""
    snn, batch, hit = network(convolution=False), events(), (0.0,) * 5 + (1.0,) + (0.0,) * 9
    trains = st.SpikeTrain(tau=4.0, kernel="alpha", hit=hit, miss=(0.0,))
    with Objective(snn, st.Training(loss=trains), steps=STEPS) as loss:
        make = torch.Generator().manual_seed(2)
        outputs = (torch.rand(STEPS, 6, 4, generator=make) < 0.4).double().requires_grad_()
        value = loss(outputs, batch)
        (found,) = torch.autograd.grad(value, outputs)
    wanted = torch.zeros_like(outputs)
    wanted[5, range(6), batch.labels] = 1
    distance = over_time(matrix(4.0), outputs.detach() - wanted)
    torch.testing.assert_close(value, distance.square().sum() / 12)
    expected = over_time(matrix(4.0).T, distance) / 6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_delays_train_in_their_range_and_are_not_decayed(tmp_path: Path) -> None:
    snn, batch = network(convolution=True), events()
    weights = [name for name, p in snn.net.named_parameters() if p.requires_grad]
    loader = [(batch.images, batch.labels)] * 5
    (unit,) = [unit for unit in snn.modules() if isinstance(unit, Delay)]
    unit.delay.data = torch.tensor([0.1, 3.0, 5.9]).view(3, 1, 1).double()
    before = unit.delay.detach().clone()
    training = st.Training(learning_rate=1.5, weight_decay=0.5, loss=COUNTS, warmup=0.0)
    content = replace(training, loss=st.SpikeCount(hit=6, miss=1, margin=1e3))
    for rule, given in ((SLAYER(train_delays=False), training), (SLAYER(), content)):
        # In the second without a gradient: only a decay could move them.
        copied = deepcopy(snn)
        st.tune(copied, loader, rule, steps=STEPS, epochs=1, training=given)
        (kept,) = [each for each in copied.modules() if isinstance(each, Delay)]
        assert torch.equal(kept.delay.detach(), before)
    st.tune(snn, loader, SLAYER(), steps=STEPS, epochs=1, training=training)
    assert not torch.equal(unit.delay.detach(), before)
    assert unit.delay.min() >= 0 and unit.delay.max() <= 6
    assert any(name.endswith("delay") for name in weights)


def test_it_learns_which_of_two_channels_fires_first() -> None:
    """Both send as many spikes: only their order tells the classes apart."""
    make, labels = torch.Generator().manual_seed(3), torch.arange(64) % 2
    x = torch.zeros(64, 20, 2, 1, 1)
    first = torch.randint(1, 5, (64,), generator=make)
    x[range(64), first, labels] = 1
    x[range(64), first + 6, 1 - labels] = 1
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 24, bias=False), nn.ReLU(), nn.Linear(24, 2, bias=False),
        nn.ReLU(),
    )  # fmt: skip
    for weight in ann.parameters():
        weight.data.mul_(3.0)  # enough for one spike to be answered by one
    snn = st.twin(ann, 20, (2, 1, 1), neuron=st.SRMNeuron(tau_synapse=2.0))
    st.add_delays(snn, start=(0, 6), maximum=8)
    st.add_frames(snn, 20)
    training = st.Training(learning_rate=0.1, loss=st.SpikeCount(hit=3, miss=0))
    history = st.tune(
        snn, [(x, labels)] * 20, SLAYER(), steps=20, epochs=4, seed=0, training=training
    )
    assert history.epochs[-1].accuracy > 0.95
    with torch.no_grad():
        assert (snn(x).argmax(1) == labels).float().mean() > 0.95


def test_delays_from_a_wrong_start_find_the_planted_ones_in_saccade_events() -> None:
    """By the rule, behind a pool, through the neurons of the layer after: all are 3 at first."""

    def made() -> tuple[SpikingNetwork, Delay]:
        torch.manual_seed(0)
        ann = nn.Sequential(
            nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(150, 12, bias=False), nn.ReLU(),
        )  # fmt: skip
        for name, gain in (("0.weight", 1.5), ("4.weight", 8.0)):
            ann.get_parameter(name).data.mul_(gain)
        snn = st.twin(ann, 40, (2, 12, 12), neuron=st.SRMNeuron(tau_synapse=3.0))
        st.add_delays(snn, start=3.0, maximum=12)
        st.add_frames(snn, 30)
        return snn, next(unit for unit in snn.modules() if isinstance(unit, Delay))

    make = torch.Generator().manual_seed(0)
    seen = st.Saccades(size=12, steps=10, amplitude=4.0)
    frames = st.saccades(torch.rand(16, 1, 8, 8, generator=make), seen).float()
    batch = Batch(frames, torch.arange(16))
    (teacher, planted), (snn, unit) = made(), made()
    planted.delay.data = 8 * torch.rand(6, 1, 1, generator=make)
    with torch.no_grad():
        wanted = alpha_filter(outputs(teacher.eval(), batch.images, 40), 4.0)

    def distance(sent: Tensor, _: Batch) -> Tensor:
        return (alpha_filter(sent, 4.0) - wanted).square().sum() / 2

    learn = prepare(snn, SLAYER(), Task(steps=40, criterion=distance))
    optimizer = torch.optim.Adam([unit.delay], lr=0.15)
    for _ in range(60):
        optimizer.zero_grad()
        if not learn(batch).loss:
            break
        optimizer.step()
        unit.delay.data.clamp_(*unit.limits["delay"])
    shift = planted.delay.detach().floor()
    assert len(shift.unique()) > 4 and wanted.any()
    # What acts as a shift of k steps lies between k and k + 1.
    assert (unit.delay - (shift + 0.5)).abs().max() <= 0.5


def test_a_dark_or_blinding_input_leaves_numbers() -> None:
    for scale in (0.0, 1e4):
        snn, batch = network(convolution=True), events()
        found = gradients(snn, SLAYER(), batch._replace(images=scale * batch.images))
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert found.keys() == {"0.weight", "4.weight", "2.delay.delay"}
        assert (scale > 0) == bool(found["4.weight"].any())


def test_a_first_batch_without_spikes_is_refused_in_words() -> None:
    snn, batch = network(convolution=True), events()
    learn = prepare(snn, SLAYER(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    with pytest.raises(TuneError, match="none of its 108 neurons fired on the first batch"):
        learn(batch._replace(images=torch.zeros_like(batch.images)))


def test_a_sweep_reads_the_whole_curve() -> None:
    snn, batch = network(convolution=True).eval(), events()
    table = st.sweep({"slayer": snn}, [(batch.images, batch.labels)], steps=STEPS)
    rows = [row for row in table.rows if row.model == "slayer"]
    assert [row.steps for row in rows][-1] == STEPS and rows[-1].accumulates > 0


def test_what_it_cannot_train_is_refused() -> None:
    batch, task = events(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum())
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU())
    with pytest.raises(TuneError, match=r"relu: SLAYER trains SRM neurons, not IF; build"):
        prepare(st.twin(ann, STEPS, (1, 8, 8)), SLAYER(), task)
    snn = network(convolution=True)
    (unit,) = [unit for unit in snn.modules() if isinstance(unit, Delay)]
    unit.delay.data.fill_(5.5)
    with pytest.raises(TuneError, match=r"2\.delay: delays of up to 5 steps in a run of 5"):
        st.tune(snn, [(batch.images, batch.labels)], SLAYER(), steps=5, epochs=1)
    with pytest.raises(TuneError, match=r"slope must be Laplace\(\.\.\.\), not Sigmoid"):
        SLAYER(slope=st.snn.Sigmoid())  # type: ignore[arg-type]
    for switch in ("refractory", "train_delays"):
        with pytest.raises(TuneError, match=f"SLAYER: {switch} must be True or False, not 'no'"):
            SLAYER(**{switch: "no"})  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [SLTT(), OTTT()], ids=["SLTT", "OTTT"])
def test_rules_that_forget_the_steps_before_refuse_what_acts_later(rule: Rule) -> None:
    task = Task(steps=STEPS, criterion=lambda sent, _: sent.sum())
    with pytest.raises(TuneError, match=r"1\.relu: SRM lets what arrives act in later"):
        prepare(network(convolution=True), rule, task)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    snn = st.twin(ann, STEPS, (1, 8, 8))
    st.add_delays(snn, start=1.0)
    with pytest.raises(TuneError, match=r"2\.delay: Delay lets what arrives act"):
        prepare(snn, rule, task)


def test_neurons_of_a_saved_network_keep_their_kernels(tmp_path: Path) -> None:
    snn, batch = network(convolution=True).eval(), events()
    prepare(snn, SLAYER(slope=SLOPE), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    st.save(snn, tmp_path / "net.safetensors")
    again = st.load(tmp_path / "net.safetensors").double()
    for (_, one), (_, other) in zip(snn.neurons(), again.neurons(), strict=True):
        assert isinstance(one, SRM) and isinstance(other, SRM)
        assert (one.tau_synapse, one.tau_refractory, one.refractory) == (*TAUS, DEPTH)
        assert one.firing == other.firing and one.firing.surrogate == SLOPE
        assert math.isclose(other.refractory, DEPTH)
    assert torch.equal(again(batch.images), snn(batch.images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same_gradients() -> None:
    batch = events()
    expected = gradients(network(convolution=True), SLAYER(slope=SLOPE), batch)
    moved = Batch(batch.images.cuda(), batch.labels.cuda())
    found = gradients(network(convolution=True).cuda(), SLAYER(slope=SLOPE), moved)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].cpu(), gradient, rtol=1e-9, atol=1e-11)
