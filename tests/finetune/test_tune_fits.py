"""A resumed run is the one that was started; an odd readout or a frozen leak is respected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import spiketune as st
from spiketune.finetune import Batch
from spiketune.finetune.losses import Objective
from spiketune.snn import Membrane, SuperSpike, Surrogate

Data = list[tuple[Tensor, Tensor]]


class Stop(Exception):
    """Ends a run in its middle."""


def images() -> Data:
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(32, 1, 2, 2, generator=random), torch.arange(32) % 3
    return [(x[:16], y[:16]), (x[16:], y[16:])]


def net(slope: Surrogate | None = None, frozen: str = "") -> st.SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    snn = st.twin(ann, 4, (1, 2, 2))
    for _, neuron in snn.neurons():
        neuron.firing = replace(neuron.firing, surrogate=slope or SuperSpike(alpha=1.0))
    if frozen:
        snn.net.get_parameter(frozen).requires_grad_(False)
    return snn


def stopped(snn: st.SpikingNetwork, path: Path) -> None:
    def stop(update: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        st.tune(
            snn, images(), st.SurrogateBPTT(surrogate=None), steps=4, epochs=2,
            checkpoint=path, checkpoint_every=1, on_batch=stop,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: net(), lambda: net(SuperSpike(alpha=50.0))),
        (lambda: net(frozen="1.bias"), lambda: net(frozen="3.bias")),
    ],
    ids=["slopes", "what trains"],
)
def test_a_run_goes_on_with_the_network_it_was_started_with(
    first: Callable[[], st.SpikingNetwork],
    second: Callable[[], st.SpikingNetwork],
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.checkpoint"
    stopped(first(), path)
    rule = st.SurrogateBPTT(surrogate=None)
    other = second()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(st.SpiketuneError, match="another network"):
        st.tune(other, images(), rule, steps=4, epochs=2, checkpoint=path, checkpoint_every=1,
                resume=True)  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    history = st.tune(first(), images(), rule, steps=4, epochs=2, checkpoint=path,
                      checkpoint_every=1, resume=True)  # fmt: skip
    assert len(history.epochs) == 2


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    """Whatever the readout: the teacher's answers are compared with the mean of all steps."""
    snn = net()
    snn.readout = Membrane()
    taught = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    outputs = taught.expand(8, 16, 3)
    batch = Batch(*images()[0], taught)
    criterion = Objective(snn, st.Training(distillation=1.0), steps=8)
    assert float(criterion(outputs, batch)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rule", [st.SLTT(), st.OTTT()])
def test_rules_of_single_steps_need_the_mean(rule: st.Rule) -> None:
    snn = net()
    snn.readout = Membrane()
    with pytest.raises(st.SpiketuneError, match="readout = Mean"):
        st.tune(snn, images(), rule, steps=4, epochs=1)


def test_a_frozen_leak_stays_as_it_is() -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    snn = st.twin(ann, 4, (1, 2, 2), leak=0.005)
    st.tune(snn, images(), st.SurrogateBPTT(), steps=4, epochs=1)
    ((_, neuron),) = snn.neurons()
    assert float(neuron.leak) == pytest.approx(0.005)


def test_a_share_of_another_number_of_processes_is_refused() -> None:
    data = TensorDataset(*(torch.cat(part) for part in zip(*images(), strict=True)))
    sampler: DistributedSampler[object] = DistributedSampler(data, num_replicas=2, rank=0)
    with pytest.raises(st.SpiketuneError, match="process"):
        st.tune(net(), DataLoader(data, 8, sampler=sampler), st.SurrogateBPTT(), steps=2, epochs=1)
