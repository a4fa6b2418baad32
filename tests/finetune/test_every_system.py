"""Each system of direct training through the same verbs: tune, save, load, resume, sweep."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import spiketune as st
from spiketune.finetune import Update
from spiketune.snn import Firing, HardReset

SHAPE = (1, 8, 8)
STRICT = Firing(reset=HardReset(), strict=True)


@dataclass(frozen=True)
class System:
    """A network, how it learns, and from what."""

    build: Callable[[], st.SpikingNetwork]
    rule: st.Rule
    loss: st.finetune.Loss
    frames: int = 0


def layered(text: str, steps: int, **how: Any) -> Callable[[], st.SpikingNetwork]:
    def build() -> st.SpikingNetwork:
        return st.layered(text, 10, steps, SHAPE, raw_pixels=True, **how)

    return build


def single_spike(*, binary: bool) -> Callable[[], st.SpikingNetwork]:
    def build() -> st.SpikingNetwork:
        kind = st.FirstSpikeNeuron(binary=binary)
        snn = st.layered("6C3-P2-20", 10, 32, SHAPE, neuron=kind)
        st.fit_times(snn, images(16))
        return snn

    return build


SRM = st.SRMNeuron(tau_synapse=2.0)
RESTING = st.RefractoryNeuron(leak=1 - 1 / 16, period=1)
COUNT = st.SpikeCount(hit=5, miss=1)
SYSTEMS = {
    "slayer": System(layered("6C3-P2-20", 12, neuron=SRM, pool="sum"), st.SLAYER(), COUNT),
    "slayer, delays, over time": System(
        layered(
            "P2-20", 12, neuron=SRM, pool="sum", delays=st.Delays(start=(0, 4), maximum=6),
            frames=True,
        ),
        st.SLAYER(), COUNT, frames=12,
    ),
    "hm2bp": System(
        layered("6C3-P2-20", 12, neuron=RESTING, synapses=st.Synapses(tau=3), gain=3.0),
        st.HM2BP(), COUNT,
    ),
    "strsbp": System(
        layered("30-R20", 12, neuron=RESTING, synapses=st.Synapses(tau=3), gain=3.0),
        st.STRSBP(), COUNT,
    ),
    "strsbp, reservoir": System(
        layered(
            "30-R12", 12, neuron=RESTING, synapses=st.Synapses(tau=3, delayed=True), gain=3.0,
            grid=(2, 2, 3),
        ),
        st.STRSBP(), COUNT,
    ),
    "tssl": System(
        layered(
            "6C3-P2-20", 5, neuron=st.LeakyNeuron(leak=0.8, firing=STRICT), gain=4.0,
            synapses=st.Synapses(tau=3, output=True),
        ),
        st.TSSL(), st.SpikeTrain(hit=(0, 1, 1, 1, 1)),
    ),
    "lee": System(
        layered("6C3-P2-20", 12, neuron=st.LateralNeuron(leak=0.95, inhibition=0.02), gain=3.0),
        st.Lee(), COUNT,
    ),
    "stidi": System(single_spike(binary=False), st.STiDi(), st.MeanCrossEntropy()),
    "stidi, binary": System(
        single_spike(binary=True), st.STiDi(form="displacement"), st.RelativeTarget()
    ),
    "soft lif": System(
        layered("6C3-P2-20", 20, neuron=st.RateNeuron(), bias=1.0, output="current"),
        st.RateTraining(noise=0.0), st.MeanCrossEntropy(),
    ),
}  # fmt: skip
each = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


def images(count: int) -> Tensor:
    """Ten patterns, a pixel or two of noise."""
    drawn = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, *SHAPE, generator=drawn).square()
    noise = 0.1 * torch.rand(count, *SHAPE, generator=drawn)
    return (patterns[torch.arange(count) % 10] + noise).clamp(0, 1)


def batches(system: System, count: int = 32, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    shown = images(count)
    if system.frames:
        drawn = torch.Generator().manual_seed(1)
        seen = torch.rand(count, system.frames, *SHAPE, generator=drawn)
        shown = (seen < 0.3 * shown[:, None]).float()
    return list(zip(shown.split(size), (torch.arange(count) % 10).split(size), strict=True))


def made(system: System) -> st.SpikingNetwork:
    torch.manual_seed(0)
    return system.build()


def tune(snn: st.SpikingNetwork, system: System, data: Any, **settings: Any) -> Any:
    training = st.Training(loss=system.loss, learning_rate=0.02, warmup=0.0)
    settings = {"epochs": 1, "training": training, **settings}
    return st.tune(snn, data, system.rule, steps=snn.steps, **settings)


@each
def test_a_network_learns_the_images_that_it_sees(system: System) -> None:
    snn, data = made(system), batches(system)
    history = tune(snn, system, data, epochs=12)
    losses = [epoch.loss for epoch in history.epochs]
    assert min(losses) < 0.9 * losses[0]
    assert all(bool(weight.isfinite().all()) for weight in snn.parameters())


@each
def test_a_file_gives_the_same_answers(system: System, tmp_path: Path) -> None:
    snn, data = made(system), batches(system)
    tune(snn, system, data)
    st.save(snn, tmp_path / "kept.safetensors")
    loaded = st.load(tmp_path / "kept.safetensors")
    with torch.no_grad():
        assert torch.equal(snn.eval().unroll(data[0][0]), loaded.unroll(data[0][0]))
    before = {name: weight.clone() for name, weight in loaded.named_parameters()}
    tune(loaded, system, data)  # and it can go on learning
    assert any(not torch.equal(before[name], weight) for name, weight in loaded.named_parameters())


@each
def test_a_run_that_stopped_within_an_epoch_goes_on_to_the_bit(
    system: System, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(update: Update) -> None:
        raise Stopped

    data, whole = batches(system), made(system)
    broken = deepcopy(whole)
    tune(whole, system, data, epochs=2)
    saving = {"epochs": 2, "checkpoint": tmp_path / "a.checkpoint", "checkpoint_every": 1}
    with pytest.raises(Stopped):
        tune(broken, system, data, on_batch=stop, **saving)
    again = made(system)
    tune(again, system, data, resume=True, **saving)
    assert all(
        torch.equal(one, other)
        for one, other in zip(whole.parameters(), again.parameters(), strict=True)
    )


@each
def test_dark_images_go_by(system: System) -> None:
    snn, (bright, other) = made(system), batches(system)
    tune(snn, system, [bright, (torch.zeros_like(other[0]), other[1]), other])
    assert all(bool(weight.isfinite().all()) for weight in snn.parameters())


@each
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_silent_and_restless_networks_stop_in_words_or_go_on(system: System, factor: float) -> None:
    snn, data = made(system), batches(system)
    with torch.no_grad():
        for weight in snn.parameters():
            if weight.dim() > 1:
                weight.mul_(factor)
    try:
        tune(snn, system, data)
    except st.SpiketuneError as error:
        assert any(word in str(error) for word in ("fire", "spike", "learning_rate"))
    assert all(bool(weight.isfinite().all()) for weight in snn.parameters())


def test_all_stand_on_the_same_axes() -> None:
    models = {name: made(one) for name, one in SYSTEMS.items() if not one.frames}
    table = st.sweep(models, batches(SYSTEMS["lee"]), steps=32)
    for name, snn in models.items():
        rows = table.of(name)
        spikes = [row.spikes_per_neuron for row in rows]
        assert [row.steps for row in rows] == list(range(1, 33))
        assert spikes == sorted(spikes) and spikes[-1] > 0, name
        assert rows[-1].energy_nj > 0 and snn.report.neurons > 0
