"""Kernels in several threads, tasks and processes at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spiketune.finetune.packing import AsItIs
from spiketune.finetune.segments import segment
from spiketune.snn import IF, neuron_path
from spiketune.snn.fused import kernels, paths
from spiketune.snn.fused.choices import current_path


def in_a_thread(run: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_a_path_is_forced_in_its_own_thread() -> None:
    inside, done = threading.Event(), threading.Event()

    def other() -> list[str]:
        found = [current_path()]
        with neuron_path("compiled"):
            inside.set()
            done.wait(10)
            found.append(current_path())
        return found

    with ThreadPoolExecutor(1) as pool:
        with neuron_path("eager"):
            waiting = pool.submit(other)
            assert inside.wait(10)
            assert current_path() == "eager"
        done.set()
        assert current_path() == "auto"
        assert waiting.result() == ["auto", "compiled"]


def test_a_path_is_forced_in_its_own_task() -> None:
    async def forced(path: str) -> str:
        with neuron_path(path):
            await asyncio.sleep(0.01)
            return current_path()

    async def both() -> list[str]:
        return await asyncio.gather(forced("eager"), forced("compiled"))

    assert asyncio.run(both()) == ["eager", "compiled"]


def test_the_way_back_asks_nobody_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    neuron, weight = IF(torch.tensor(0.4)), torch.rand(4, 2, 5).requires_grad_()

    def run(x: Tensor) -> Tensor:
        found: Tensor = neuron(x * weight)[0].sin()
        return found

    ways: list[Callable[[Tensor], Tensor]] = [
        run,
        lambda x: segment(run, x, again=nullcontext, keep=AsItIs.of),
        lambda x: checkpoint(run, x, use_reentrant=False),  # type: ignore[no-any-return]
    ]
    found = []
    for path in ("eager", "compiled"):
        for way in ways:
            torch.manual_seed(1)
            x = torch.rand(4, 2, 5).requires_grad_()
            with neuron_path(path):
                loss = way(x).square().sum()
            with monkeypatch.context() as here:
                here.setenv("SPIKETUNE_NEURONS", "an error where it is asked for")
                in_a_thread(loss.backward)
            found.append(x.grad)
    assert found[0] is not None and found[0].any()
    for one in found[1:]:
        torch.testing.assert_close(one, found[0])


def test_threads_that_need_the_same_kernels_make_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    make, called, made, before = kernels.COMPILERS["cpu"], nn.Module.__call__, list[int](), 4
    begin = threading.Barrier(before)

    def slowly(function: Callable[..., Any], examples: Sequence[Tensor]) -> kernels.Kernel:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return make(function, examples)

    monkeypatch.setitem(kernels.COMPILERS, "cpu", slowly)

    def run(path: str) -> list[Tensor]:
        x = torch.linspace(-1, 2, 24).view(3, 2, 4).requires_grad_()
        if path == "compiled":
            begin.wait(10)
        with neuron_path(path):
            spikes, state = IF(torch.tensor(0.7))(x)
        (spikes.sin().sum() + state.membrane.square().sum()).backward()
        assert x.grad is not None
        return [spikes, x.grad]

    expected = run("eager")
    with ThreadPoolExecutor(before) as pool:
        for found in pool.map(run, ["compiled"] * before):
            assert torch.equal(found[0], expected[0])
            torch.testing.assert_close(found[1], expected[1])
    assert len(made) == 3  # forward, backward, backward with a gradient of the membrane
    assert nn.Module.__call__ is called  # which tracing swaps


FORKED = """
import os, signal, threading, time
import torch
from spiketune.snn import IF, neuron_path
from spiketune.snn.fused.kernels import MAKING

torch.set_num_threads(2)
neuron, x = IF(torch.tensor(0.7)), torch.randn(4, 8, 4000)

def run(x):
    with neuron_path("compiled"), torch.no_grad():
        return neuron(x)[0]

def hold():
    with MAKING:
        held.set()
        time.sleep(0.3)

expected, held = run(x), threading.Event()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    found = run(x), run(x[:3])  # with a kernel that is there, and with one that is not
    torch.set_num_threads(1)  # PyTorch's own operations wait for the parent's threads as well
    same = torch.equal(found[0], expected) and torch.equal(found[1], expected[:3])
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert run.stdout.strip() == "0"
