"""Comparing two engines, or two networks, by the times of their calls."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.runtime.timing import ratio_interval, undisturbed_ratio


@pytest.mark.parametrize("slow", [0.0, 0.3, 0.7])
def test_how_long_a_machine_was_slow_changes_nothing(slow: float) -> None:
    """What slows a machine costs the first subject half of its speed, and the other a quarter."""
    rng = np.random.default_rng(0)
    busy = rng.permutation(60) < 60 * slow
    first, own = 4 * np.where(busy, 2.0, 1.0), 12 * np.where(busy, 1.25, 1.0)
    noise = 1 + 0.01 * rng.random((2, 60))
    found = undisturbed_ratio(own * noise[0], first * noise[1], 0.2, seed=0)
    assert found["ratio"] == pytest.approx(3.0, rel=0.01)
    assert found["low"] <= found["ratio"] <= found["high"]
    whole = ratio_interval((own * noise[0])[:, None], (first * noise[1])[:, None], seed=0)
    assert (whole["ratio"] < 2.7) == (slow > 0)


def test_one_round_has_a_ratio() -> None:
    found = undisturbed_ratio(np.array([6.0]), np.array([2.0]), 0.2, seed=0)
    assert found == {"ratio": 3.0, "low": 3.0, "high": 3.0}
