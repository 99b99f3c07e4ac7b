"""The entry point of `pplcnet`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.cli import start
from tests.helpers.processes import ROOT, SECONDS


def test_the_runtime_alone_says_what_the_command_line_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ppcls_ext.cli.main", raising=False)
    monkeypatch.delitem(sys.modules, "ppcls_ext.core.display", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert start.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pplcnet: the command line needs rich")
    assert line.endswith("python -m pip install 'pplcnet[cli]'")


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ppcls_ext.cli.main", None)
    with pytest.raises(ModuleNotFoundError, match=r"ppcls_ext\.cli\.main"):
        start.main()


def test_it_runs_the_command_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pplcnet", "configs", "my_images"])
    assert start.main() == 0
    assert "my_images" in capsys.readouterr().out


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line of a shell in which `$PPLCNET` is the command."""
    environment = {"PPLCNET": f"{sys.executable} -m ppcls_ext.cli", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    ran = ["sh", "-c", line]
    return subprocess.run(ran, capture_output=True, text=True, timeout=SECONDS, cwd=folder, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("$PPLCNET configs >&-", 0, None),
        ("$PPLCNET train -c nothing >&- 2>&-", 2, None),
        ("mkdir gone; cd gone; rmdir ../gone; $PPLCNET configs", 2, "the working folder: No such file or directory"),
        ("$PPLCNET configs >/dev/full", 2, "pplcnet configs: No space left on device"),
        ("$PPLCNET --help >/dev/full", 2, "pplcnet: standard output: No space left on device"),
        ("$PPLCNET --help | true", 0, None),
        ("$PPLCNET configs | true", 0, None),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_streams_and_folders_that_are_gone_are_a_line_at_most(
    line: str, status: int, error: str | None, tmp_path: Path
) -> None:
    """Slow: each is a process of its own."""
    done = shell(line, tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (error is not None), done.stderr
    assert error is None or error in done.stderr
