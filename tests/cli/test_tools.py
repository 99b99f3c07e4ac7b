"""`tools/*.py` are the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.cli.main import COMMANDS
from tests.helpers.processes import ROOT, SECONDS

SCRIPTS = sorted(file.name for file in (ROOT / "tools").glob("*.py"))


def test_every_command_has_a_script() -> None:
    assert sorted(f"{command.NAME.replace('-', '_')}.py" for command in COMMANDS) == SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_tools_run_from_any_folder(script: str, tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "tools" / script), "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert script.removesuffix(".py").replace("_", "-") in done.stdout
