"""The rooms of the house: imports go down only, and production needs no training framework."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from importlinter.api import read_configuration
from importlinter.cli import lint_imports

from tests.helpers.processes import ROOT

# What trains, checks configs or draws: none of it may be needed to run an exported model.
TRAINING_ONLY = (
    *("paddle", "ppcls", "ppdet", "paddleseg", "pydantic", "rich", "matplotlib", "scipy", "sklearn", "numba"),
    *("safetensors", "psutil", "PIL", "typing_extensions"),
)
PRODUCTION = ("ppcls_ext.runtime.predictor", "ppcls_ext.cls.inference", "det.inference", "seg.inference")
PACKAGE = ROOT / "ppcls_ext"
LAYERS = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"][0]["layers"]  # from top to bottom


def layer(module: Sequence[str]) -> int:
    """How high a module lies. det and seg lie where classification does; the package itself is what users import."""
    root, *inside = module
    name = "cls" if root in ("det", "seg") else inside[0]
    return len(LAYERS) - LAYERS.index(name) if name in LAYERS else len(LAYERS) + 1


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


def test_modules_named_in_strings_lie_no_higher_than_who_names_them() -> None:
    """Import-linter does not see `python -m` and `importlib.import_module`, which take a module's name as text."""
    upwards, named = [], 0
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(name, str) or re.fullmatch(r"(ppcls_ext|det|seg)(\.\w+)+", name) is None:
                continue
            named += 1
            if layer(name.split(".")) > layer(file.relative_to(ROOT).with_suffix("").parts):
                upwards.append(f"{file.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not upwards
    assert named, "nothing was found, though engines run in `python -m ppcls_ext.runtime.worker`"


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
@pytest.mark.parametrize(("package", "brought"), [("runtime", set()), ("serve", {"typing_extensions"})])  # Starlette
def test_every_module_of_production_imports_no_training_framework(package: str, brought: set[str]) -> None:
    files = (ROOT / "ppcls_ext" / package).rglob("*.py")
    modules = [f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for f in files]
    assert set(loaded_by(", ".join(m.removesuffix(".__init__") for m in modules))) <= brought


@pytest.mark.slow
def test_importing_the_package_loads_no_engine_and_no_numpy() -> None:
    code = "import sys, ppcls_ext; print(*[m for m in ('numpy', 'cv2', 'yaml', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_the_scan_sees_what_an_import_loads() -> None:
    assert "pydantic" in loaded_by("ppcls_ext.core.config")
