"""The rooms of the house: imports go down only, and production needs no training framework."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from importlinter.cli import lint_imports

from tests.helpers.processes import ROOT

# What trains, checks configs or draws tables: none of it may be needed to run an exported model.
TRAINING_ONLY = ("paddle", "ppcls", "pydantic", "rich", "matplotlib", "scipy", "sklearn", "numba", "safetensors")


@pytest.fixture
def loggers_stay() -> Iterator[None]:
    """Import-linter configures logging, which disables every logger that is there."""
    loggers = [found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    before = [logger.disabled for logger in loggers]
    yield
    for logger, disabled in zip(loggers, before, strict=True):
        logger.disabled = disabled


@pytest.mark.usefixtures("loggers_stay")
def test_imports_go_down_the_layers_without_circles() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_logo=True) == 0


@pytest.mark.slow
def test_the_runtime_imports_no_training_framework() -> None:
    code = f"import sys, ppcls_ext.runtime.engines; print([m for m in {TRAINING_ONLY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
