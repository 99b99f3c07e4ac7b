"""The entry point of `pplcnet`: says in one line what the command line needs where only the runtime is installed."""

from __future__ import annotations

import sys

NEEDED = ("rich", "pydantic")  # the extra `cli`


def main() -> int:
    """Run the command that was typed; gives the exit status."""
    try:
        from ppcls_ext.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        print(f"pplcnet: the command line needs {error.name}; python -m pip install 'pplcnet[cli]'", file=sys.stderr)
        return 2
    return run()
