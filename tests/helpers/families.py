"""Families of tests that do the same for many networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], fast: int = 3) -> list[Any]:
    """Parameters of which `fast` ones, spread over all, are in `make test-fast`; `make test` has them all.

    For families whose members take little each and minutes together.
    """
    known = list(values)
    kept = {round(k * (len(known) - 1) / max(1, fast - 1)) for k in range(fast)}
    return [value if k in kept else pytest.param(value, marks=pytest.mark.slow) for k, value in enumerate(known)]
