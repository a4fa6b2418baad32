"""Arithmetic against independent ways to the same number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketune.compare import FP16, FP32, INT8, EnergyModel, wilson
from spiketune.snn import SpiketuneError

Z = 1.959963984540054


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_equation_that_defines_them(case: tuple[int, int]) -> None:
    hits, trials = case
    share = hits / trials
    for end in wilson(hits, trials):
        p = end / 100  # the ends are where (share - p)² = z² p (1 - p) / n
        assert (share - p) ** 2 == pytest.approx(Z**2 * p * (1 - p) / trials, rel=1e-6, abs=1e-12)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_range(case: tuple[int, int]) -> None:
    hits, trials = case
    low, high = wilson(hits, trials)
    assert 0 <= low <= 100 * hits / trials + 1e-9 and 100 * hits / trials - 1e-9 <= high <= 100


def test_wilson_published_value() -> None:
    # Newcombe 1998, table I: 81 of 263, Wilson without continuity correction.
    low, high = wilson(81, 263)
    assert (round(low / 100, 4), round(high / 100, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_share(hits: int, trials: int) -> None:
    with pytest.raises(SpiketuneError, match="hits"):
        wilson(hits, trials)


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_energy_adds_up(macs: int, accumulates: int) -> None:
    together = FP32.nanojoules(macs=macs, accumulates=accumulates)
    apart = macs * 4.6e-12 + accumulates * 0.9e-12
    assert together * 1e-9 == pytest.approx(apart)


def test_presets_are_horowitz_multiply_plus_add() -> None:
    assert FP32.mac_pj == pytest.approx(3.7 + 0.9) and FP32.ac_pj == 0.9
    assert FP16.mac_pj == pytest.approx(1.1 + 0.4) and FP16.ac_pj == 0.4
    assert INT8.mac_pj == pytest.approx(0.2 + 0.03) and INT8.ac_pj == 0.03
    assert str(EnergyModel(name="mine", mac_pj=2.0, ac_pj=1.5)) == (
        "mine: 2 pJ a MAC, 1.5 pJ an AC"
    )
