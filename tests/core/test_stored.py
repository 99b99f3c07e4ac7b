"""What was stored is read as what it is, or refused in a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from ppcls_ext.core.stored import STORED, Count, Positive, checked


@dataclass(frozen=True)
class Part:
    __pydantic_config__ = STORED

    names: tuple[str, ...]
    count: Count


@dataclass(frozen=True)
class Whole:
    __pydantic_config__ = STORED

    parts: tuple[Part, ...]
    figures: Mapping[str, Positive]
    note: str = ""

    def __post_init__(self) -> None:
        if self.note and not self.parts:
            raise ValueError("a note about nothing")


GOOD: dict[str, Any] = {"parts": [{"names": ["a", "b"], "count": 2}], "figures": {"ms": 1}, "note": "x"}


def test_a_dataclass_is_read_as_it_was_stored() -> None:
    found = checked(Whole, GOOD)
    assert found == Whole((Part(("a", "b"), 2),), {"ms": 1.0}, "x")
    assert checked(Whole, asdict(found)) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": [{"names": "a", "count": 2}]}, "parts.0.names: "),
        ({"parts": [{"names": ["a"], "count": "2"}]}, "parts.0.count: "),
        ({"parts": [{"names": ["a"], "count": True}]}, "parts.0.count: "),
        ({"parts": [{"names": ["a"], "count": 0}]}, "parts.0.count: "),
        ({"figures": {"ms": "1.0"}}, "figures.ms: "),
        ({"figures": {"ms": float("nan")}}, "figures.ms: "),
        ({"other": 1}, "other: "),
        ({"parts": []}, "a note about nothing"),
        ({"note": "\ud800"}, "no text of UTF-8"),
    ],
)
def test_what_is_damaged_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        checked(Whole, {**GOOD, **change})
    assert "\n" not in str(raised.value)
