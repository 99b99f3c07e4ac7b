"""The entry point of `pplcnet`, and what has to hold before anything is imported, said in a line where it does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

NEEDED = ("rich", "pydantic")  # the extra `cli`


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, by default the one that was typed; gives the exit status."""
    _open_streams()
    try:
        os.getcwd()
    except OSError as error:  # Paddle asks for it when it is imported
        print(f"pplcnet: the working folder: {error.strerror}; cd to one that is there", file=sys.stderr)
        return 2
    try:
        from ppcls_ext.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        print(f"pplcnet: the command line needs {error.name}; python -m pip install 'pplcnet[cli]'", file=sys.stderr)
        return 2
    return run(argv)


def _open_streams() -> None:
    """Have what is written to a stream that was closed at the start (`>&-`) go nowhere; Python gives None for it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  open to the end of the process
