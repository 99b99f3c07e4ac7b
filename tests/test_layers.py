"""The rooms of the house: imports go down only, and production needs no training framework."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from importlinter.cli import lint_imports

from tests.helpers.processes import ROOT

# What trains, checks configs or draws: none of it may be needed to run an exported model.
TRAINING_ONLY = (
    *("paddle", "ppcls", "ppdet", "paddleseg", "pydantic", "rich", "matplotlib", "scipy", "sklearn", "numba"),
    *("safetensors", "psutil", "PIL", "typing_extensions"),
)
PRODUCTION = ("ppcls_ext.runtime.predictor", "ppcls_ext.cls.inference", "det.inference", "seg.inference")


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


def loaded_by(module: str) -> list[str]:
    """Which of `TRAINING_ONLY` an import loads."""
    code = f"import sys, {module}; print(*[m for m in {TRAINING_ONLY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("module", PRODUCTION)
def test_production_imports_no_training_framework(module: str) -> None:
    assert loaded_by(module) == []


@pytest.mark.slow
@pytest.mark.parametrize("package", ["runtime", "serve"])
def test_every_module_of_production_imports_no_training_framework(package: str) -> None:
    files = (ROOT / "ppcls_ext" / package).rglob("*.py")
    modules = [f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for f in files]
    assert loaded_by(", ".join(m.removesuffix(".__init__") for m in modules)) == []


@pytest.mark.slow
def test_importing_the_package_loads_no_engine_and_no_numpy() -> None:
    code = "import sys, ppcls_ext; print(*[m for m in ('numpy', 'cv2', 'yaml', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_the_scan_sees_what_an_import_loads() -> None:
    assert "pydantic" in loaded_by("ppcls_ext.core.config")
