"""Where the systems meet each other, and what all rules share: delays, growth, first batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import spiketune as st
from spiketune.finetune import Batch, Task, TuneError, Update
from spiketune.finetune.rules import prepare
from spiketune.snn import Firing, HardReset, Recurrent, costs

SHAPE = (1, 6, 6)
RESTING = st.RefractoryNeuron(leak=1 - 1 / 16, period=1)
STRICT = st.LeakyNeuron(leak=0.8, firing=Firing(reset=HardReset(), strict=True))
COUNT = st.SpikeCount(hit=5, miss=1)
LABELS = torch.arange(8) % 4


def images() -> Tensor:
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))


def gradients(snn: st.SpikingNetwork, rule: st.Rule) -> dict[str, Tensor]:
    snn.zero_grad()
    criterion = st.finetune.Objective(snn, st.Training(loss=COUNT), steps=10)
    prepare(snn, rule, Task(steps=10, criterion=criterion))(Batch(images(), LABELS))
    return {name: p.grad.clone() for name, p in snn.named_parameters() if p.grad is not None}


def test_growth_pulls_at_weights_and_at_nothing_else() -> None:
    growth = st.WeightGrowth(strength=100.0, steepness=0.1)
    for rule, grown, how in (
        (st.Lee(), st.Lee(growth=growth), {"neuron": st.LateralNeuron(leak=0.9)}),
        (
            st.HM2BP(), st.HM2BP(growth=growth),
            {"neuron": RESTING, "synapses": st.Synapses(), "delays": st.Delays(start=1.0)},
        ),
    ):  # fmt: skip
        torch.manual_seed(0)
        snn = st.layered("4C3-9", 4, 10, SHAPE, gain=4.0, **how)
        plain, found = gradients(snn, rule), gradients(snn, grown)
        assert plain.keys() == found.keys()
        for name, gradient in found.items():
            assert torch.equal(gradient, plain[name]) != name.endswith("weight"), name


def test_growth_counts_only_what_is_wired() -> None:
    torch.manual_seed(0)
    snn = st.layered(
        "12-R12", 4, 10, SHAPE, neuron=RESTING, synapses=st.Synapses(), gain=4.0, grid=(2, 2, 3)
    )
    growth = st.WeightGrowth(strength=2.0, steepness=0.5, scale=0.8)
    name, unit = next((n, u) for n, u in snn.named_modules() if isinstance(u, Recurrent))
    plain, found = gradients(snn, st.STRSBP()), gradients(snn, st.STRSBP(growth=growth))
    pulled = (found[f"{name}.weight"] - plain[f"{name}.weight"]).double()
    w, wired = unit.weight.detach().double() / 0.8, unit.wiring.double()
    assert 0 < wired.sum() < wired.numel()
    mean = (w.square() * wired).sum(1, keepdim=True) / wired.sum(1, keepdim=True).clamp_min(1)
    expected = 2.0 * 0.5 * w * wired * (0.5 * (mean - 1)).exp()
    torch.testing.assert_close(pulled, expected, rtol=1e-4, atol=1e-5)


def test_a_central_difference_is_not_cut_into_stretches() -> None:
    def made(diff: str, start: float) -> st.SpikingNetwork:
        torch.manual_seed(0)
        delays = st.Delays(start=start, maximum=4, diff=diff)  # type: ignore[arg-type]
        return st.layered("4C3-9", 4, 10, SHAPE, neuron=RESTING, delays=delays, gain=4.0)

    with pytest.raises(TuneError, match=r"central difference of a delay.*diff='backward'"):
        gradients(made("central", 0.0), st.SurrogateBPTT(recompute_steps=5))
    snn = made("backward", 0.5)
    whole = gradients(snn, st.SurrogateBPTT())
    apart = gradients(snn, st.SurrogateBPTT(recompute_steps=5))
    assert any("delay" in name and bool(grad.any()) for name, grad in whole.items())
    torch.testing.assert_close(apart, whole)


def test_a_silent_class_behind_a_synapse_learns_to_fire() -> None:
    torch.manual_seed(0)
    for output in (False, True):
        synapses = st.Synapses(tau=3.0, output=output)
        snn = st.layered("9", 4, 10, SHAPE, neuron=RESTING, synapses=synapses, gain=4.0)
        last = next(p for name, p in snn.named_parameters() if p.shape == (4, 9))
        last.data[2] = -1.0  # this class never fires
        found = gradients(snn, st.HM2BP())
        grad = next(found[name] for name, p in snn.named_parameters() if p is last)
        assert (grad[2] < 0).any(), output  # its weights are to grow


@pytest.mark.parametrize(
    ("rule", "neuron"),
    [
        (st.HM2BP(), RESTING),
        (st.TSSL(), STRICT),
        (st.SurrogateBPTT(), st.PlainNeuron()),
        (st.SLAYER(), st.SRMNeuron()),
    ],
    ids=["HM2BP", "TSSL", "SurrogateBPTT", "SLAYER"],
)
def test_delays_beyond_the_run_are_refused_by_every_rule(
    rule: st.Rule, neuron: st.zoo.NeuronKind
) -> None:
    delays = st.Delays(start=10.0, maximum=12)
    snn = st.layered("9", 4, 20, SHAPE, neuron=neuron, delays=delays, synapses=st.Synapses())
    with pytest.raises(TuneError, match="delays of up to 10 steps in a run of 10"):
        gradients(snn, rule)


@pytest.mark.parametrize("name", ["hm2bp", "lee", "stidi"])
def test_a_run_that_goes_on_is_not_asked_for_spikes_again(name: str, tmp_path: Path) -> None:
    """Dark batches after the first pass in one run, and so they do where a run goes on."""
    torch.manual_seed(0)
    build = {
        "hm2bp": lambda: st.layered(
            "9", 4, 10, SHAPE, neuron=RESTING, synapses=st.Synapses(), gain=4.0
        ),
        "lee": lambda: st.layered("9", 4, 10, SHAPE, neuron=st.LateralNeuron(), gain=4.0),
        "stidi": lambda: st.layered("9", 4, 32, SHAPE, neuron=st.FirstSpikeNeuron()),
    }
    rule = {"hm2bp": st.HM2BP(), "lee": st.Lee(), "stidi": st.STiDi()}[name]
    loss = st.MeanCrossEntropy() if name == "stidi" else COUNT
    snn, training = build[name](), st.Training(loss=loss)
    if name == "stidi":
        st.fit_times(snn, images())
    bright, dark = (images(), LABELS), (torch.zeros(8, *SHAPE), LABELS)
    with pytest.raises(TuneError, match="black"):
        st.tune(snn, [dark], rule, steps=snn.steps, epochs=1, training=training)
    shown = {"steps": snn.steps, "training": training, "checkpoint": tmp_path / "a.checkpoint"}

    def stop(update: Update) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        st.tune(snn, [bright, dark], rule, epochs=1, checkpoint_every=1, on_batch=stop, **shown)
    history = st.tune(snn, [bright, dark], rule, epochs=1, resume=True, checkpoint_every=1, **shown)
    assert history.epochs[0].images == 16


def test_a_trace_that_decays_costs_a_multiplication_wherever_it_is() -> None:
    plain = st.layered("9", 4, 10, SHAPE, neuron=RESTING)
    filtered = st.layered("9", 4, 10, SHAPE, neuron=RESTING, synapses=st.Synapses(tau=3.0))
    recurrent = st.layered("R9", 4, 10, SHAPE, neuron=RESTING, synapses=st.Synapses(tau=3.0))
    response = st.layered("9", 4, 10, SHAPE, neuron=st.SRMNeuron())
    found = [costs(snn).dense_macs for snn in (plain, filtered, recurrent, response)]
    assert found == [0, 13, 13 + 9, 3 * 13]
