"""Which way neurons run: chosen, forced, and what happens where no kernel can be made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from spiketune import SpiketuneError
from spiketune.snn import IF, Firing, Surrogate
from spiketune.snn.fused import c_kernel, paths
from spiketune.snn.fused.paths import current_path, neuron_path, run_pointwise
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
    assert len(seen) == 1 and ways.broken is not None
    with neuron_path("compiled"):  # nothing more to try
        run()


def test_a_compiler_that_fails_is_named_and_an_order_is_an_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(c_kernel, "compiler_version", lambda compiler: "none")
    with neuron_path("compiled"), pytest.raises(Exception, match="false"):
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
    assert ways.broken is None and len(ways.made) == 1


def test_what_mixes_places_is_refused() -> None:
    with neuron_path("compiled"), pytest.raises(UnknownOperation, match="cumsum"):
        run_pointwise(lambda x: x.cumsum(1), "mixing", [torch.ones(2, 1, 3)], [], [])


def test_what_was_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "void kernel(void) {}\n"
    path = c_kernel.built(source)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("subprocess.run", never)
    assert c_kernel.built(source) == path
