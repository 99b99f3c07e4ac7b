"""The package as a whole: what imports what, how fast, and how quietly."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.helpers.processes import ROOT, SECONDS, command

CORE = sorted((ROOT / "ppcls_ext").rglob("*.py"))
SUITES = {"det", "seg", "ppdet", "paddleseg"}
SEEN_BY = {"upstream"}  # the one package for workarounds may import what it repairs


def imported(file: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                names.add(str(argument.value).split(".")[0])
    return names


@pytest.mark.parametrize("file", CORE, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_the_core_knows_no_other_task(file: Path) -> None:
    wrong = imported(file) & SUITES
    assert not wrong or file.parent.name in SEEN_BY, wrong


def test_the_scan_sees_imports(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import os.path\ndef f():\n    from det.task import X\n    importlib.import_module('seg.x')"
    )
    assert imported(tmp_path / "a.py") == {"os", "det", "seg"}


def run(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    line = [sys.executable, *flags, "-c", code]
    return subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False, cwd="/")


@pytest.mark.slow
def test_modules_of_the_core_raise_no_warning() -> None:
    modules = [f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for f in CORE]
    names = ", ".join(m.removesuffix(".__init__") for m in modules)
    code = f"import ppcls_ext, warnings\nwarnings.filterwarnings('error', module=r'ppcls_ext(\\.|$)')\nimport {names}"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("file", CORE, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_sources_compile_without_a_warning(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(file.read_text(encoding="utf-8"), str(file), "exec")


@pytest.mark.slow
def test_all_warnings_as_errors_do_not_stop_the_command(trained: Path, data: Path, tmp_path: Path) -> None:
    """`python -W error` around a whole evaluation: neither our code nor what it silences raises.

    Slow: a fresh process evaluates.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ppcls_ext.cli", "eval", "-c", str(trained), "--save-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_say_nothing_but_their_own(trained: Path, data: Path, tmp_path: Path) -> None:
    """Slow: a fresh process evaluates."""
    done = command("eval", "-c", trained, "--save-dir", tmp_path / "r", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"weights from {trained / 'best.pdparams'}", f"report: {tmp_path / 'r'}"]


@pytest.mark.slow
def test_version_and_help_need_no_paddle() -> None:
    done = run(
        "import sys; from ppcls_ext.cli.main import build_parser; build_parser(); print('paddle' in sys.modules)"
    )
    assert done.stdout.strip() == "False"
