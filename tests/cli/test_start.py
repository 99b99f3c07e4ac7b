"""The entry point of `pplcnet`."""

from __future__ import annotations

import sys

import pytest

from ppcls_ext.cli import start


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
