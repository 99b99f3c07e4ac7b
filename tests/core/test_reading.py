"""JSON that the toolkit has written, read again."""

from __future__ import annotations

import math

import pytest

from ppcls_ext.core.reading import Unreadable, parsed_json


@pytest.mark.parametrize("text", ["Infinity", "[-Infinity]", '{"a": 1e999}'])
def test_infinities_are_refused_however_they_are_written(text: str) -> None:
    with pytest.raises(Unreadable, match="a number that is too large"):
        parsed_json(text)


def test_what_is_not_a_number_is_left_to_the_reader() -> None:
    assert math.isnan(parsed_json("NaN"))
