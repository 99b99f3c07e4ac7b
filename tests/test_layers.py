"""The rooms of the house: imports go down only, and production needs no training framework."""

from __future__ import annotations

import subprocess
import sys

from importlinter.cli import lint_imports

from tests.helpers.runs import ROOT

# What trains, checks configs or draws tables: none of it may be needed to run an exported model.
TRAINING_ONLY = ("paddle", "ppcls", "pydantic", "rich", "matplotlib", "scipy", "sklearn", "numba", "safetensors")


def test_imports_go_down_the_layers_without_circles() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_logo=True) == 0


def test_the_runtime_imports_no_training_framework() -> None:
    code = f"import sys, ppcls_ext.runtime.engines; print([m for m in {TRAINING_ONLY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
