"""The flags of `pplcnet reproduce`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.cli.main import build_parser
from ppcls_ext.paper.tables import NUMBERS
from ppcls_ext.runtime.engines import ENGINES
from tests.helpers.help import help_of

Fails = Callable[..., str]


def test_the_help_shows_engines_tables_and_the_defaults_that_are_used() -> None:
    shown, used = help_of("reproduce"), build_parser().parse_args(["reproduce"])
    assert all(name in shown for name in ENGINES)
    assert used.tables is None  # all of them
    for text in (f"{NUMBERS[0]} to {NUMBERS[-1]}", ",".join(used.engines), used.threads, used.out, used.work):
        assert f"(default: {text})" in shown or f"(default: all, {text})" in shown


@pytest.mark.parametrize(
    ("given", "clue"),
    [
        (["--tables", "1"], "--tables 1: the paper's tables of results are 2 to 9"),
        (["--engines", "onedn"], "did you mean 'onednn'?"),
        (["--today", "--tables", "2"], "--today measures other networks than those of the tables: leave --tables out"),
        (["--today", "--runs", "run"], "--today measures other networks than those of the tables: leave --runs out"),
    ],
)
def test_what_cannot_be_measured_is_one_line(given: list[str], clue: str, tmp_path: Path, fails: Fails) -> None:
    assert clue in fails("reproduce", *given, "--out", tmp_path / "out", "--work", tmp_path / "work")
