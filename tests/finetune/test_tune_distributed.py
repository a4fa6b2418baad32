"""Two processes under torchrun train as one does with their batches put together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import images, network, run
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tuning_networks import small_ann, spiking

import spiketune as st
from spiketune.finetune.distributed import Processes, share
from spiketune.snn import LIF, SpikingNetwork, read, save

ROOT = Path(__file__).parents[2]
Results = dict[str, Any]


def with_norms(images: Tensor) -> SpikingNetwork:
    """A network whose first currents pass through a BatchNorm."""
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    net = read(ann, images)
    (relu,) = [node for node in net.graph.nodes if "relu" in str(node.target)]
    net.add_submodule("norm", nn.BatchNorm2d(4))
    net.add_submodule("act", LIF(torch.tensor(1.0), leak=0.5))
    with net.graph.inserting_after(relu):
        norm = net.graph.call_module("norm", (relu.args[0],))
    with net.graph.inserting_after(norm):
        neuron = net.graph.call_module("act", (norm,))
    relu.replace_all_uses_with(neuron)
    net.graph.erase_node(relu)
    net.recompile()
    return SpikingNetwork(net, steps=2, input_shape=(1, 8, 8)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    generator = torch.Generator().manual_seed(3)
    patterns, labels = torch.rand(10, 1, 8, 8, generator=generator), torch.arange(80) % 10
    data = patterns[labels] + 0.1 * torch.randn(80, 1, 8, 8, generator=generator), labels
    torch.save(data, folder / "data.pt")
    for kind in ("if", "lif"):
        save(spiking(small_ann(), data[0], kind), folder / f"{kind}.safetensors")
    save(with_norms(data[0]), folder / "norm.safetensors")
    ternary = st.Ternary(steps=2, drive=2, encode=False)
    save(st.to_snn(small_ann(), data[0], ternary), folder / "ternary.safetensors")
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[Results, Results]:
    """What the processes of one torchrun found."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    script = str(Path(__file__).with_name("processes.py"))
    done = subprocess.run(
        [*torchrun, "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
         script, str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"results-{rank}.pt") for rank in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def one(folder: Path) -> Results:
    return run(folder, 1, 0)


def apart(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


ALIKE = (
    "own sampler", "accumulated", "each step", "spike times", "leaks", "drawn steps", "quantised",
    "TET", "RMP", "features",
)  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one(
    one: Results, both: tuple[Results, Results], name: str, folder: Path
) -> None:
    alone, (first, second) = one[name], (found[name] for found in both)
    assert apart(first["weights"], second["weights"]) == 0
    assert apart(first["weights"], alone["weights"]) < 1e-6
    assert next(iter(alone["weights"].values())).dtype == torch.float64
    for mine, theirs, single in zip(
        first["epochs"], second["epochs"], alone["epochs"], strict=True
    ):
        assert mine == theirs
        assert mine.pop("loss") == pytest.approx(single.pop("loss"), abs=1e-9)
        assert mine == single


def test_a_loss_that_squares_a_mean_over_the_share_is_another_one(
    one: Results, both: tuple[Results, Results]
) -> None:
    """As ``finetune.distributed`` says."""
    first, second = (found["IMLoss"]["weights"] for found in both)
    assert apart(first, second) == 0
    assert 1e-6 < apart(first, one["IMLoss"]["weights"]) < 0.1


@pytest.mark.parametrize("loader", ["resumed", "resumed with generators"])
def test_a_resumed_run_of_two_equals_one_that_never_stopped(
    both: tuple[Results, Results], loader: str
) -> None:
    for found in both:
        whole, resumed = found["together"][loader]
        assert apart(whole, resumed) == 0


def test_statistics_of_batchnorm_are_averaged(both: tuple[Results, Results], folder: Path) -> None:
    """Three updates without a change of weights, the even images here and the odd ones there."""
    first, second = (found["together"]["norm"] for found in both)
    assert apart(first, second) == 0
    start = network(folder, "norm").net
    current = nn.functional.conv2d(
        images(folder).tensors[0], start.get_parameter("0.weight"), start.get_parameter("0.bias")
    ).detach()
    shares: list[list[Tensor]] = [[], []]  # of each process: mean and variance after its last batch
    for rank, own in enumerate(shares):
        mean, var = torch.zeros(4).double(), torch.ones(4).double()
        for part in current[rank::2].split(8):
            mean = 0.9 * mean + 0.1 * part.mean((0, 2, 3))
            var = 0.9 * var + 0.1 * part.var((0, 2, 3))
        own += [mean, var]
    for name, here, there in zip(("mean", "var"), *shares, strict=True):
        found = first[f"net.norm.running_{name}"]
        # Each step is linear in what was there before, so the averages may be taken at the end.
        torch.testing.assert_close(found, (here + there) / 2, rtol=0, atol=1e-12)
        assert float((here - there).abs().max()) > 1e-4  # one process's alone would not do


def test_only_the_first_process_writes_and_calls_back(
    both: tuple[Results, Results], folder: Path
) -> None:
    assert [found["together"]["calls"] for found in both] == [3, 0]
    lines = (folder / "log" / "updates.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("list", "2 processes cannot share this loader; give a DataLoader"),
        ("others", "shares its images among 4 processes, but 2 are running"),
        ("lengths", "batches an epoch, process 0 has 1"),
        ("full", "no room"),
        ("taken", "holds an earlier run"),
        ("log", "the log of an earlier run"),
        ("no log", "the log cannot be written"),
        ("slopes", "not the same in every process: graph, neurons or their slopes differ"),
    ],
)
def test_bad_input_stops_both(both: tuple[Results, Results], what: str, message: str) -> None:
    for found in both:
        assert message in found["together"]["refused"][what]


def test_a_shared_loader_keeps_its_settings() -> None:
    data = TensorDataset(torch.arange(10).float(), torch.arange(10))
    loader = DataLoader(
        data, 2, shuffle=True, num_workers=1, drop_last=True, prefetch_factor=5,
        persistent_workers=True, pin_memory=False, generator=torch.Generator(),
    )  # fmt: skip
    halves = [share(loader, Processes(rank=rank, count=2), 7) for rank in (0, 1)]
    for half in halves:
        assert isinstance(half, DataLoader)
        for name in (
            "dataset", "batch_size", "num_workers", "drop_last", "prefetch_factor",
            "persistent_workers", "collate_fn", "generator", "timeout",
        ):  # fmt: skip
            assert getattr(half, name) == getattr(loader, name), name
    seen = [set(half.sampler) for half in halves]  # type: ignore[attr-defined]
    assert seen[0] | seen[1] == set(range(10)) and not seen[0] & seen[1]
    assert share(loader, Processes(), 7) is loader


def test_a_module_without_processes_is_left_alone() -> None:
    norm = nn.BatchNorm2d(2)
    Processes().average_norms(norm)
    Processes().spread(norm)
    assert torch.equal(norm.state_dict()["running_mean"], torch.zeros(2))
