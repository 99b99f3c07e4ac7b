"""The flags of `pplcnet benchmark`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli import benchmark
from ppcls_ext.runtime.engines import ENGINES
from tests.helpers.help import help_of

Fails = Callable[..., str]


def test_every_setting_has_a_flag() -> None:
    assert set(benchmark.SETTINGS) == set(Settings.model_fields)


def test_the_help_shows_engines_and_the_settings_own_defaults() -> None:
    shown = help_of("benchmark")
    squeezed = "".join(shown.split())  # argparse breaks lines at hyphens too
    assert all(name in squeezed for name in ENGINES)
    for name in ("rounds", "processes", "seconds", "warmup", "seed", "spread"):
        text = re.search(rf"--{name} [A-Z]+ ([a-z].*?\))", shown)
        assert text is not None
        assert text[1].endswith(f"(default: {getattr(Settings(), name):g})")


@pytest.mark.parametrize(
    ("given", "clue"),
    [
        (["--iterations", "5", "--seconds", "1"], "either --iterations or --seconds"),
        (["--rounds", "1"], "benchmark.rounds: "),
        (["--spread", "0"], "benchmark.spread: "),
        (["--engine", "onedn"], "did you mean 'onednn'?"),
    ],
)
def test_wrong_settings_are_one_line(given: list[str], clue: str, tmp_path: Path, fails: Fails) -> None:
    assert clue in fails("benchmark", "-m", tmp_path, *given)


def test_nothing_to_time_is_one_line(fails: Fails) -> None:
    assert fails("benchmark").endswith(
        "nothing to time; give exported folders with -m, or names of networks with --network"
    )
    assert "takes exported folders (-m), not --network" in fails(
        "benchmark", "--network", "PPLCNet_x1_0", "--end-to-end"
    )
