"""The peak that operators are compared with is the best that the cores reach."""

from __future__ import annotations

import pytest

from ppcls_ext.core import peak


@pytest.mark.parametrize("lanes", peak.LANES)
def test_the_loop_computes_what_it_is_timed_for(lanes: int) -> None:
    """x = x * a + a in each of the chains, where a is nearly 1: x grows by 1 a step, at first."""
    loop = peak.multiply_adds(lanes)
    for steps in (1, 2, 100):
        assert loop(steps) == pytest.approx(peak.CHAINS * (1 + steps), rel=1e-3)


def test_the_product_counts_by_its_fastest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products of 2 GFLOP, which take 0.5, 0.25 and 0.5 seconds."""
    ticks = iter([0, 0, 0.5, 0.5, 0.75, 0.75, 1.25, 9])
    monkeypatch.setattr(peak, "PEAK_SIZES", (1000,))
    monkeypatch.setattr(peak, "PEAK_SECONDS", 1)
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(ticks))
    assert peak.product_gflops(1) == pytest.approx(2 / 0.25)


def test_the_peak_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "product_gflops", lambda threads: 92.0)
    monkeypatch.setattr(peak, "multiply_add_gflops", lambda lanes, threads: {4: 51.0, 8: 103.0, 16: 45.0}[lanes])
    assert peak.peak_gflops(1) == 103.0
