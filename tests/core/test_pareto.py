"""Which networks are worth having."""

from __future__ import annotations

from ppcls_ext.core.pareto import pareto_front


def test_the_front_is_what_nothing_beats() -> None:
    points = {
        "fast": (1.0, 50.0),
        "beaten": (2.0, 50.0),
        "middle": (2.0, 60.0),
        "good": (3.0, 70.0),
        "bad": (4.0, 69.0),
    }
    assert pareto_front(points) == {"fast", "middle", "good"}
    assert pareto_front({"a": (1.0, 50.0), "b": (1.0, 50.0)}) == {"a", "b"}
