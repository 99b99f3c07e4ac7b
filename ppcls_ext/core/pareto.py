"""Which of several networks are worth having."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def pareto_front(points: Mapping[Any, tuple[float, float]]) -> set[Any]:
    """Names of the points (latency, accuracy) that no other one beats in one without losing in the other."""
    return {
        name
        for name, (latency, accuracy) in points.items()
        if not any(
            ms <= latency and acc >= accuracy and (ms, acc) != (latency, accuracy) for ms, acc in points.values()
        )
    }
