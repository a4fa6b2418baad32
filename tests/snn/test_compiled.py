"""``torch.compile`` of the whole network: the compiler itself, and how much is given to it."""

from __future__ import annotations

import copy
import os
import shutil

import pytest
import torch
from snn_networks import Residual, dyadic, dyadic_images, spiking

import spiketune as st
from spiketune.snn import IF, SignedIF, SpiketuneError, compiled, neuron_path, pieces, run_by

found = shutil.which(os.environ.get("CXX", "g++"))


@pytest.mark.skipif(found is None, reason="no C++ compiler")
@torch.no_grad()
def test_the_compiler_makes_what_single_steps_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONGEST", 2)
    x = dyadic_images(3, 1, 8, 8)
    snn = spiking(dyadic(Residual()), x, SignedIF, steps=6)
    expected = snn.unroll(x, chunk=1)
    run_by(snn, st.CompiledChunks())
    for _ in range(3):
        assert torch.equal(snn.unroll(x), expected)
    program = snn._recordings._program  # type: ignore[union-attr]
    (function,) = program._functions.values()
    assert type(function).__name__ == "OptimizedModule"


@torch.no_grad()
def test_no_more_is_compiled_than_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda graph, mode: graph)
    snn = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), IF, steps=3)
    plain = copy.deepcopy(snn)
    run_by(snn, st.CompiledChunks(most=2))
    with pytest.warns(UserWarning, match="2 functions are compiled, and what needs more") as said:
        for size in (1, 2, 3, 4):
            x = dyadic_images(size, 1, 8, 8)
            for _ in range(3):
                assert torch.equal(snn.unroll(x), plain.unroll(x))
    assert len(said) == 1


@torch.no_grad()
def test_a_failure_in_a_later_part_leaves_the_states_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace, traced = compiled.make_fx, [0]

    def failing(work: object) -> object:
        traced[0] += 1
        if traced[0] == 6:  # of the second part, in the second chunk
            raise RuntimeError("a long story")
        return trace(work)  # type: ignore[arg-type]

    monkeypatch.setattr(compiled, "_compiled", lambda graph, mode: graph)
    monkeypatch.setattr(compiled, "make_fx", failing)
    for name, value in {"LONGEST": 2, "CPU": 1, "NECK": 1}.items():
        monkeypatch.setattr(pieces, name, value)
    snn = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), IF, steps=3)
    plain = copy.deepcopy(snn)
    run_by(snn, st.CompiledChunks(most=1))
    # Kernels write over states that nobody else needs.
    with neuron_path("compiled"), pytest.warns(UserWarning) as said:
        for size in (2, 2, 3, 3):
            x = dyadic_images(size, 1, 8, 8)
            assert torch.equal(snn.unroll(x), plain.unroll(x, chunk=1))
    assert ["long story" in str(one.message) for one in said] == [False, True]


def test_the_mode_reaches_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda graph, **settings: given.append(settings) or graph)
    snn, x = spiking(dyadic(Residual()), dyadic_images(2, 1, 8, 8), steps=1), torch.zeros(())
    run_by(snn, st.CompiledChunks(mode="max-autotune-no-cudagraphs"))
    x = dyadic_images(2, 1, 8, 8)
    with torch.no_grad():
        snn(x), snn(x)
    assert given == [{"mode": "max-autotune-no-cudagraphs", "fullgraph": True, "dynamic": False}]


def test_settings_that_cannot_act_are_refused() -> None:
    with pytest.raises(SpiketuneError, match="for CUDA graphs take GraphedChunks"):
        st.CompiledChunks(mode="reduce-overhead")  # type: ignore[arg-type]
    with pytest.raises(SpiketuneError, match="at least 1 function, not 0"):
        st.CompiledChunks(most=0)
