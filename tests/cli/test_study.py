"""What `pplcnet study -c` takes, and what it says about anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.core.config import find_config, shipped_studies
from tests.helpers.help import help_of

Fails = Callable[..., str]


def test_the_help_promises_studies_alone() -> None:
    shown = help_of("study")
    promised = shown.partition("the name of a shipped one (")[2].partition(")")[0].split(", ")
    assert promised == list(shipped_studies())
    assert all(find_config(name, study=True).is_file() for name in promised)
    assert "run folder" not in shown


@pytest.mark.parametrize("given", ["PPLCNet_x1_0", "det/my_coco"])
def test_a_config_is_not_a_study(given: str, fails: Fails) -> None:
    message = fails("study", "-c", given)
    assert f"study {given}: this file is not a study; known: studies/decoding, studies/distillation" in message


@pytest.mark.slow
def test_a_run_folder_is_not_a_study(trained: Path, fails: Fails) -> None:
    assert f"study {trained}: this file is not a study" in fails("study", "-c", trained)


def test_a_misspelt_study_names_the_nearest_study(fails: Fails) -> None:
    assert "study table6: no such file; did you mean 'studies/table6'?" in fails("study", "-c", "table6")
