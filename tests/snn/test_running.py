"""When chunks are recorded, what makes them be recorded anew, and who gets them as they stand."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from recorder_double import STEPS, Double, Made, made, pair, ways
from snn_networks import dyadic_images
from torch import nn

import spiketune as st
from spiketune.snn import (
    PSN,
    Chunks,
    EarlyExit,
    Firing,
    HardReset,
    Poisson,
    SignedIF,
    SpiketuneError,
    compiled,
    run_by,
)
from spiketune.snn.simulation import Simulation

pytestmark = [
    pytest.mark.usefixtures("made"),
    pytest.mark.filterwarnings("error:chunks run as they stand"),
]
__all__ = ["made"]


@ways
@torch.no_grad()
def test_a_shape_that_comes_once_is_not_recorded(made: Made, way: Chunks) -> None:
    snn, _ = pair(way)
    for size in (1, 2, 3):
        snn(dyadic_images(size, 1, 8, 8))
    assert made.recorded == 0
    snn(dyadic_images(3, 1, 8, 8))
    # Of 2 steps and 1; a graph of the first 2, too, which begin with no states.
    assert made.recorded == (2 if isinstance(way, st.CompiledChunks) else 3)


@ways
@torch.no_grad()
def test_parameters_changed_or_replaced_are_seen(made: Made, way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    for _ in range(2):
        before = snn(x)
    recorded = made.recorded
    for one in (snn, plain):
        for parameter in one.parameters():
            parameter.mul_(0.5)
    assert torch.equal(snn(x), plain(x)) and not torch.equal(snn(x), before)
    assert made.recorded == recorded
    for one in (snn, plain):
        for _, unit in one.neurons():
            unit.threshold = nn.Parameter(2 * unit.threshold, requires_grad=False)
    for _ in range(3):
        assert torch.equal(snn(x), plain(x))
    assert isinstance(way, st.CompiledChunks) or made.recorded == 2 * recorded
    for one in (snn, plain):
        weight = one.net.get_parameter(
            next(n for n, p in one.net.named_parameters() if p.dim() > 3)
        )
        weight.data = weight.data.flip(0).clone()
    for _ in range(3):
        assert torch.equal(snn(x), plain(x))
    snn.load_state_dict({name: value * 2 for name, value in plain.state_dict().items()})
    plain.load_state_dict(snn.state_dict())
    for _ in range(2):
        assert torch.equal(snn(x), plain(x))
    assert isinstance(way, st.CompiledChunks) or made.recorded > 2 * recorded


@ways
@torch.no_grad()
def test_parameters_that_were_the_same_may_part(way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    for one in (snn, plain):
        first, second, *_ = (unit for _, unit in one.neurons())
        first.threshold = second.threshold
    for _ in range(2):
        before = snn(x)
    for one in (snn, plain):
        first, *_ = (unit for _, unit in one.neurons())
        first.threshold = nn.Parameter(4 * first.threshold, requires_grad=False)
    for _ in range(3):
        assert torch.equal(snn(x), plain(x)) and not torch.equal(snn(x), before)


@ways
@torch.no_grad()
def test_settings_changed_are_seen(way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    for _ in range(2):
        before = snn(x)
    for one in (snn, plain):
        for _, unit in one.neurons():
            unit.firing = Firing(reset=HardReset())
    for _ in range(3):
        assert torch.equal(snn(x), plain(x))
    assert not torch.equal(snn(x), before)


@ways
def test_what_needs_a_closer_look_runs_as_it_stands(made: Made, way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    with torch.no_grad():
        snn(x), snn(x)
    ran, names = made.ran, []
    with torch.no_grad():
        curve = snn.unroll(x, monitor=lambda name, _: names.append(name))
        assert torch.equal(curve, plain.unroll(x))
        assert set(names) == {name for name, _ in snn.neurons()}
        exits = EarlyExit(confidence=2.0, steps=STEPS)
        assert all(map(torch.equal, exits(snn, x), exits(plain, x)))
        seen: list[object] = []
        _, neuron = next(snn.neurons())
        hook = neuron.register_forward_hook(lambda *found: seen.append(found))
        snn(x)
        hook.remove()
        neuron.train()
        snn(x), snn(x)
        neuron.eval()
        assert seen
    for one in (snn, plain):
        next(one.parameters()).requires_grad_()
        one(x).sum().backward()
    assert torch.equal(*(next(one.parameters()).grad for one in (snn, plain)))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(snn.train()(x), plain.train()(x))
        assert made.ran == ran
        snn.eval()(x)
        snn(x)
    assert made.ran > ran


@ways
@torch.no_grad()
def test_images_may_leave_a_batch(made: Made, way: Chunks) -> None:
    snn, plain = pair(way, SignedIF)
    x, stay = dyadic_images(4, 1, 8, 8), torch.tensor([0, 3])
    snn(x)
    run = Simulation(snn.program, x, None, None, snn._recorded(snn.program, x))
    first = run.advance(2)
    run.keep(stay)
    ran = made.ran
    assert ran and torch.equal(first, torch.cat(list(plain.outputs(x, 2))))
    rest = torch.cat(list(plain.outputs(x, STEPS)))[2:, stay]
    assert torch.equal(run.advance(STEPS - 2), rest) and made.ran == ran


@ways
@torch.no_grad()
def test_the_choice_is_copied_and_not_saved(tmp_path: Path, made: Made, way: Chunks) -> None:
    snn, plain = pair(way)
    x = dyadic_images(3, 1, 8, 8)
    snn(x), snn(x)
    recorded = made.recorded
    twin = copy.deepcopy(snn)
    assert twin.chunks == way
    for parameter in twin.parameters():
        parameter.mul_(0.5)
    for _ in range(2):
        assert not torch.equal(twin(x), plain(x)) and torch.equal(snn(x), plain(x))
    assert made.recorded == 2 * recorded
    assert pickle.loads(pickle.dumps(snn)).chunks is None
    assert st.load(st.save(snn, tmp_path / "a.safetensors")).chunks is None
    ran = made.ran
    run_by(snn, None)
    assert torch.equal(snn(x), plain(x)) and made.ran == ran


@ways
@torch.no_grad()
def test_what_cannot_be_recorded_runs_as_it_stands_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, way: Chunks
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no compiler found\nlong story")

    monkeypatch.setattr(compiled, "_compiled", fails)
    monkeypatch.setattr(Double, "record", fails)
    snn, plain = pair(way, SignedIF)
    x = dyadic_images(3, 1, 8, 8)
    snn(x)
    with pytest.warns(UserWarning, match=r"\(RuntimeError: no compiler found\)") as said:
        for _ in range(3):
            assert torch.equal(snn(x), plain(x))
    assert len(said) == 1


def test_what_is_no_network_or_no_way_to_run_it_is_refused() -> None:
    with pytest.raises(SpiketuneError, match="a Linear has no steps to run; give the network that"):
        run_by(nn.Linear(2, 2), st.CompiledChunks())  # type: ignore[arg-type]
    snn = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 2, (4,))
    for wrong in ("compiled", st.CompiledChunks):
        with pytest.raises(SpiketuneError, match="chunks are not run by"):
            run_by(snn, wrong)  # type: ignore[arg-type]
    assert snn.chunks is None


@ways
def test_networks_of_whole_or_random_units_are_refused(way: Chunks) -> None:
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    whole = st.twin(ann, 4, (4,), neuron=st.ParallelNeuron())
    assert any(isinstance(unit, PSN) for unit in whole.modules())
    with pytest.raises(SpiketuneError, match="is a PSN, which computes all its steps at once"):
        run_by(whole, way)
    random = st.to_snn(ann, torch.rand(9, 4), st.Binary(input="poisson"))
    assert any(isinstance(unit, Poisson) for unit in random.modules())
    with pytest.raises(SpiketuneError, match="is a Poisson, whose spikes are drawn"):
        run_by(random, way)
    assert whole.chunks is random.chunks is None
