"""NA as a rule: what it trains, what it refuses, and where its gradient comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import NA, Batch, Rule, Task, TuneError
from spiketune.finetune.aggregation import Reach, na_gradient
from spiketune.finetune.losses import Objective
from spiketune.finetune.rules import outputs, prepare
from spiketune.snn import Firing, HardReset, SoftReset, SpikingNetwork

HARD = Firing(reset=HardReset(), strict=True)
SOFT = Firing(reset=SoftReset())
STEPS = 5


def network(
    firing: Firing = HARD, *, leak: float = 0.8, tau: float | None = None, channels: int = 3
) -> SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, channels, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2, 3),
    )  # fmt: skip
    snn = st.twin(ann, STEPS, (1, 9, 11), neuron=st.LeakyNeuron(leak=leak, firing=firing))
    if tau is not None:
        st.add_synapses(snn, tau)
    for _, neuron in snn.neurons():  # a threshold a channel
        size = channels if neuron.threshold is next(snn.neurons())[1].threshold else 4
        spread = torch.linspace(0.1, 0.3, size).view(-1, 1, 1)
        neuron.threshold.data = spread
    for name, factor in (("3.weight", 8), ("6.weight", 10)):  # enough to fire on
        snn.net.get_parameter(name).data.mul_(factor)
    return snn


def images(count: int = 4) -> Tensor:
    return 6 * torch.randn(count, 1, 9, 11, generator=torch.Generator().manual_seed(1))


def gradients(
    snn: SpikingNetwork,
    rule: Rule,
    *,
    steps: int = STEPS,
    x: Tensor | None = None,
    half: bool = False,
) -> dict[str, Tensor]:
    x = images() if x is None else x
    batch = Batch(x, torch.arange(len(x)) % 3)
    with Objective(snn, st.Training(), steps=steps) as criterion:
        learn = prepare(snn, rule, Task(steps=steps, criterion=criterion))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            learn(batch)
    return {name: p.grad for name, p in snn.net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_spikes_are_the_neurons_own(firing: Firing) -> None:
    snn = network(firing, tau=2.0)
    plain = outputs(snn, images(), STEPS)
    prepare(snn, NA(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    assert torch.equal(outputs(snn, images(), STEPS), plain)
    assert len(torch.unique(plain.detach())) > 10


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("error", ["e", "g"])
@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_a_neuron_passes_on_what_aggregation_says(firing: Firing, error: str, power: int) -> None:
    snn = network(firing, tau=2.0)
    rule = NA(error=error, power=power, clip=7.0)  # type: ignore[arg-type]
    prepare(snn, rule, Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))
    (_, first), (_, last) = snn.neurons()
    for neuron, decay in ((first, 0.5), (last, 0.0)):  # no synapse behind the last one
        size = len(neuron.threshold)
        current = torch.randn(STEPS, 2, size, 3, 5).requires_grad_()
        g = torch.randn(STEPS, 2, size, 3, 5)
        neuron(current)[0].backward(g)
        expected = na_gradient(
            current.detach(), g, torch.zeros(2, size, 3, 5), neuron.threshold,
            torch.tensor(0.8), firing=firing, reach=Reach(power=power, clip=7.0),
            decay=decay if error == "e" else 0.0,
        )  # fmt: skip
        assert current.grad is not None
        torch.testing.assert_close(current.grad, expected)


def test_without_synapses_both_errors_are_the_same() -> None:
    found, expected = gradients(network(), NA()), gradients(network(), NA(error="g"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    filtered = gradients(network(tau=2.0), NA()), gradients(network(tau=2.0), NA(error="g"))
    assert not torch.equal(*(each["0.weight"] for each in filtered))


def test_a_scaled_network_gets_the_same_gradient() -> None:
    plain, scaled = network(), network()
    with torch.no_grad():
        scaled.net.get_parameter("0.weight").mul_(4)
        (_, first), _ = scaled.neurons()
        first.threshold.mul_(4)
        scaled.net.get_parameter("3.weight").div_(4)
    one, other = gradients(plain, NA()), gradients(scaled, NA())
    torch.testing.assert_close(other["0.weight"] * 4, one["0.weight"])


def test_layers_are_equalised_to_the_last() -> None:
    def of_each_layer(rule: Rule) -> list[Tensor]:
        snn, currents = network(), list[Tensor]()

        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            given[0].retain_grad()
            currents.append(given[0])

        for _, neuron in snn.neurons():
            neuron.register_forward_pre_hook(keep)
        gradients(snn, rule)
        return [current.grad for current in currents if current.grad is not None]

    plain, equal = of_each_layer(NA(power=3, clip=5.0)), of_each_layer(NA.reference())
    goal = plain[1].abs().mean().round(decimals=3)
    mean = plain[0].abs().mean()
    expected = plain[0] * 1.2 * torch.log(goal / (mean + 1e-5) + 1.02)
    torch.testing.assert_close(equal[1], plain[1])
    torch.testing.assert_close(equal[0], expected)


@pytest.mark.parametrize("leak", [0.8, 1.0], ids=["LIF", "IF"])
@pytest.mark.parametrize("rule", [NA(), NA.reference(), NA(error="g")], ids=str)
@pytest.mark.parametrize("firing", [HARD, SOFT], ids=["hard", "soft"])
def test_the_loss_falls(firing: Firing, rule: NA, leak: float) -> None:
    snn, x = network(firing, leak=leak, tau=2.0), images(24)
    labels = torch.arange(24) % 3
    training = st.Training(learning_rate=5e-2, warmup=0.0)
    history = st.tune(snn, [(x, labels)], rule, steps=STEPS, epochs=40, training=training)
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss


def test_hidden_layers_learn() -> None:
    snn = network(tau=2.0)
    snn.net.get_parameter("6.weight").requires_grad_(False)
    snn.net.get_parameter("6.bias").requires_grad_(False)
    training = st.Training(learning_rate=5e-2, warmup=0.0)
    labels = torch.arange(24) % 3
    history = st.tune(snn, [(images(24), labels)], NA(), steps=STEPS, epochs=40, training=training)
    assert min(done.loss for done in history.epochs) < 0.8 * history.epochs[0].loss


def test_memory_format_and_precision_change_little() -> None:
    plain = gradients(network(tau=2.0), NA())
    last = gradients(
        network(tau=2.0).to(memory_format=torch.channels_last), NA(),
        x=images().to(memory_format=torch.channels_last),
    )  # fmt: skip
    for name in plain:
        torch.testing.assert_close(last[name], plain[name], rtol=1e-4, atol=1e-5)
    coarse = gradients(network(tau=2.0), NA(), half=True)
    assert all(bool(grad.isfinite().all()) for grad in coarse.values())
    assert torch.cosine_similarity(
        coarse["6.weight"].flatten(), plain["6.weight"].flatten(), dim=0
    ) > 0.9  # fmt: skip


def test_one_step_and_an_image_that_ends_early() -> None:
    assert bool(gradients(network(), NA(), steps=1)["3.weight"].any())
    snn = network(SOFT)
    snn.drive = 2
    whole = network(SOFT)
    driven = gradients(snn, NA())
    assert bool(driven["0.weight"].any())
    assert not torch.equal(driven["0.weight"], gradients(whole, NA())["0.weight"])


def test_a_second_stretch_reaches_the_first_through_the_membrane() -> None:
    neuron = st.twin(nn.ReLU(), 4, (3,), leak=0.5).net.get_submodule("relu")
    snn = network()
    prepare(snn, NA(), Task(steps=4, criterion=lambda sent, _: sent.sum()))
    neuron.through = next(snn.neurons())[1].through  # type: ignore[assignment]
    first = torch.tensor([[[0.4, 0.9, 0.2]]]).requires_grad_()
    second = torch.tensor([[[0.6, 0.7, 1.2]]])
    _, state = neuron(first)
    neuron(second, state)[0].sum().backward()
    # δ[2] of the second stretch reaches the membrane as λ δ[2]; a flip in the first changes that
    # by θ, or by u, for the distance to the threshold.
    membrane = torch.tensor([0.4, 0.9, 0.2])
    u = 0.5 * membrane + second[0, 0]
    later = 0.5 * (1 / (1 - u).abs()).clamp_max(10)
    expected = later * (0 - membrane) / (1 - membrane)
    torch.testing.assert_close(first.grad, expected.view(1, 1, 3))


def test_what_it_cannot_train_is_refused() -> None:
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.rand(16, 4)
    task = Task(steps=4, criterion=lambda sent, _: sent.sum())
    for made in (
        st.to_snn(ann, x, st.Ternary(steps=4)),
        st.to_snn(ann, x, st.Graded(steps=4)),
        st.twin(ann, 4, (4,), neuron=st.ParallelNeuron()),
        st.twin(ann, 4, (4,), neuron=st.ParametricNeuron()),
    ):
        with pytest.raises(TuneError, match=r"relu: NA trains IF and LIF neurons, not .*Binary"):
            prepare(made, NA(), task)
    for wrong in ({"error": "f"}, {"power": 2}, {"clip": 0.0}):
        with pytest.raises(TuneError, match=next(iter(wrong))):
            NA(**wrong)  # type: ignore[arg-type]
    snn = network(tau=2.0)
    snn.drive = 2
    with pytest.raises(TuneError, match=r"relu: with drive=2 .* NA\(error='g'\)"):
        prepare(snn, NA(), Task(steps=STEPS, criterion=lambda sent, _: sent.sum()))


def test_a_trained_network_loads(tmp_path: Path) -> None:
    snn = network(tau=2.0)
    st.tune(snn, [(images(6), torch.arange(6) % 3)], NA(), steps=STEPS, epochs=1)
    st.save(snn, tmp_path / "snn.safetensors")
    again = st.load(tmp_path / "snn.safetensors")
    assert torch.equal(again(images()), snn(images()))
    assert "NA" in str(again.about["method"])
