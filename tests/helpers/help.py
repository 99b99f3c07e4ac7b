"""The help texts of the command line."""

from __future__ import annotations

import contextlib
import io

import pytest

from ppcls_ext.cli.main import main


def help_of(*command: str) -> str:
    """What `pplcnet COMMAND --help` prints, on one line, so that it can be searched however it is folded."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return " ".join(shown.getvalue().split())
