"""Which way neurons run: chosen, forced, and what happens where no kernel can be made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from spiketune import SpiketuneError
from spiketune.snn import IF, Firing, Surrogate
from spiketune.snn.fused import c_build, paths
from spiketune.snn.fused.choices import current_path, neuron_path, noted
from spiketune.snn.fused.paths import run_pointwise
from spiketune.snn.fused.pointwise import UnknownOperation


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> paths._Ways:
    """Forget what was made and what went wrong."""
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    return paths._ways


def run(firing: Firing | None = None) -> torch.Tensor:
    x = torch.full((3, 1, 4), 0.6, requires_grad=True)
    spikes, _ = IF(torch.tensor(1.0), firing=firing)(x)
    spikes.sum().backward()
    assert spikes[:, 0, 0].tolist() == [0.0, 1.0, 0.0] and x.grad is not None
    return x.grad


def test_kernels_are_made_once_they_pay(ways: paths._Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "WORTH", 30)
    before = run(), run()
    assert not ways.made
    assert torch.equal(run(), before[0])
    assert len(ways.made) == 1


def test_a_path_is_forced_for_a_block_and_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with neuron_path("eager"), neuron_path("compiled"):
        assert current_path() == "compiled"
    assert current_path() == "auto"
    with pytest.raises(SpiketuneError, match="not 'fast'"), neuron_path("fast"):
        pass
    monkeypatch.setenv("SPIKETUNE_NEURONS", "quick")
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    with pytest.raises(SpiketuneError, match="SPIKETUNE_NEURONS is 'quick'"):
        run()


def test_without_a_compiler_neurons_run_eagerly_and_say_so_once(
    ways: paths._Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WORTH", 0)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(UserWarning, match="no C compiler on the path") as seen:
        run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()
    assert len(seen) == 1 and list(ways.broken) == ["cpu"]
    with neuron_path("compiled"):  # nothing more to try
        run()


def test_a_compiler_that_fails_is_named_and_an_order_is_an_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "false")
    with neuron_path("compiled"), pytest.raises(c_build.CannotCompile, match="false ended with 1"):
        run()


@dataclass(frozen=True)
class Sorted(Surrogate):
    """A slope that is not pointwise."""

    def slope(self, distance: torch.Tensor) -> torch.Tensor:
        return distance.sort(0).values * 0


def test_a_neuron_without_a_kernel_leaves_the_others_theirs(
    ways: paths._Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WORTH", 0)
    with pytest.warns(UserWarning, match=r"aten\.sort"):
        run(Firing(surrogate=Sorted()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Firing(surrogate=Sorted()))
        run()
    assert not ways.broken and len(ways.made) == 1


def test_what_mixes_places_is_refused() -> None:
    with neuron_path("compiled"), pytest.raises(UnknownOperation, match="cumsum"):
        run_pointwise(lambda x: x.cumsum(1), "mixing", [torch.ones(2, 1, 3)], [], [])


def test_no_kernels_on_one_device_leaves_another_its_own(
    ways: paths._Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WORTH", 0)
    with pytest.warns(UserWarning, match="No module named 'triton'"):
        ways.give_up("of a GPU", "cuda", ModuleNotFoundError("No module named 'triton'"))
    run()
    assert len(ways.made) == 1


def test_what_is_made_outlives_a_compiler_that_is_gone(
    ways: paths._Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WORTH", 0)
    run()
    with pytest.warns(UserWarning, match="gone"):
        ways.give_up("another", "cpu", OSError("gone"))
    choices: list[bool] = []
    with noted(choices):
        run()
        IF(torch.tensor(1.0))(torch.ones(2, 1, 4))  # of which there was no kernel
    assert choices == [True, False]


def test_a_reason_is_told_once_however_many_neurons_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "WORTH", 0)
    neuron = IF(torch.tensor(1.0), firing=Firing(surrogate=Sorted()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for steps in (1, 2, 3):  # each a kernel of its own
            neuron(torch.ones(steps, 1, 4, requires_grad=True))[0].sum().backward()
    assert len(told) == 1 and "aten.sort" in str(told[0].message)
