"""What networks make a CPU do: counts that follow from their shapes."""

from __future__ import annotations

import pytest

from ppcls_ext.models.network_spec import parse_spec
from ppcls_ext.search.costs import CACHE_BYTES, VALUE_BYTES, VECTOR, costs_of

PLAIN = "stem16 | - | ds-c32 | ds-c64 | ds-c64 | ds-c{width}{se} | last0 | {size}"


def costs(width: int = 64, se: str = "", size: int = 96) -> dict[str, float]:
    return costs_of(parse_spec(PLAIN.format(width=width, se=se, size=size)))


def difference(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    found = {name: one.get(name, 0.0) - other.get(name, 0.0) for name in one | other}
    return {name: value for name, value in found.items() if abs(value) > 1e-12}


def test_work_is_multiply_adds_of_whole_vectors() -> None:
    found = costs(64, size=96)
    assert found["pointwise.work"] == pytest.approx(
        (16 * 32 * 24**2 + 32 * 64 * 12**2 + 64 * 64 * 6**2 + 64 * 64 * 3**2) / 1e6
    )
    assert found["depthwise3s2.work"] == pytest.approx(9 * (16 * 24**2 + 32 * 12**2 + 64 * 6**2 + 64 * 3**2) / 1e6)
    assert costs(56)["pointwise.work"] == found["pointwise.work"]
    assert costs(72)["pointwise.work"] == costs(72 + VECTOR // 2)["pointwise.work"] > found["pointwise.work"]


def test_a_gate_pays_for_its_pixels_and_values_and_a_call() -> None:
    pixels = 3**2  # of the fifth stage, of 96
    more = difference(costs(se="-se"), costs())
    assert more["gate.calls"] == 1
    assert more["gate.pixels"] == pytest.approx(pixels / 1e3)
    assert more["gate.traffic"] == pytest.approx(3 * 64 * pixels / 1e6)
    assert {name.partition(".")[0] for name in more} == {"gate"}


def test_only_what_a_cache_does_not_hold_is_uncached() -> None:
    assert not any(value for name, value in costs(size=96).items() if name.endswith(".uncached"))
    read, written, weights = 16 * 144**2, 32 * 144**2, 16 * 32
    assert costs(size=288)["pointwise.uncached"] == pytest.approx(
        (VALUE_BYTES * (read // 4 + written // 4 + weights) - CACHE_BYTES) / 1e6
    )


def test_weights_that_are_too_many_for_a_cache_are_uncached_on_the_smallest_map() -> None:
    narrow, wide = costs(64), costs(4096)
    assert narrow["pointwise.uncached"] == 0
    assert wide["pointwise.uncached"] == pytest.approx(
        (VALUE_BYTES * (64 * 4096 + (64 + 4096) * 9) - CACHE_BYTES) / 1e6
    )
