"""Types of flags, and reading a config before Paddle."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from ppcls_ext.cli.arguments import (
    add_config_arguments,
    batch,
    engine_names,
    listed,
    names,
    path,
    port,
    positive,
    real,
    seed,
    share,
    threads,
    whole,
    wholes,
)
from ppcls_ext.runtime.engines import ENGINES


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (whole, "-3", -3),
        (positive, "1", 1),
        (real, "1e-2", 0.01),
        (names, "a, b,,a", ("a", "b")),
        (wholes, "3,2,3", (3, 2)),
    ],
)
def test_values_are_read(kind: Callable[[str], Any], text: str, value: Any) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (whole, "1.5", "expected a whole number, got '1.5'"),
        (positive, "0", "expected 1 or more, got 0"),
        (real, "x", "expected a number, got 'x'"),
        (wholes, "2,x", "expected a whole number, got 'x'"),
        (whole, "\u00b2", "expected a whole number, got '\u00b2'"),
        (whole, "9" * 5000, f"expected a whole number, got '{'9' * 57}...'"),
        (threads, "-1", "expected 1 to 1024, got -1"),
        (batch, "1000000000", "expected 1 to 65536, got 1000000000"),
        (port, "65536", "expected 0 to 65535, got 65536"),
        (seed, "-1", "expected 0 to 4294967295, got -1"),
        (real, "nan", "expected a finite number, got 'nan'"),
        (real, "1e999", "expected a finite number, got '1e999'"),
        (share, "1.5", "expected 0 to 1, got 1.5"),
        (path, " ", "expected a name or path, got ' '"),
        (path, "a\0b", "expected a name or path, got 'a\\x00b'"),
    ],
)
def test_wrong_values_say_what_is_expected(kind: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        kind(text)
    assert str(raised.value) == message


def test_lists_are_sentences_and_engines_come_from_the_registry() -> None:
    assert listed(["json"]) == "json"
    assert listed(["json", "csv", "coco"]) == "json, csv or coco"
    assert set(engine_names(auto=False).replace(" or ", ", ").split(", ")) == set(ENGINES)
    assert set(engine_names().replace(" or ", ", ").split(", ")) == {*ENGINES, "auto"}


def test_overrides_add_up() -> None:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, required=False)
    assert parser.parse_args([]).override == []
    given = parser.parse_args(["-c", "x", "-o", "A.b=1", "--override", "A.c=2"])
    assert (given.config, given.override) == ("x", ["A.b=1", "A.c=2"])
