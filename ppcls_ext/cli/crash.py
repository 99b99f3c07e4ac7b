"""The report on an error that nobody foresaw: saved for whoever can mend it, so that the user sees one line."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from ppcls_ext.core.text import command_line
from ppcls_ext.core.version import __version__

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h: a fault of the program itself


def save_report(error: BaseException) -> Path | None:
    """Write versions, command and traceback to a new file that only its owner can read; None where no place takes it.

    Nothing of the process's environment variables and of the values of local variables goes into it.
    """
    text = _report(error)
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in _folders():
        file = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError:
            continue  # the next place may take it
        return file
    return None


def _folders() -> Iterator[Path]:
    """Where a report may go: the place for state of the XDG base directories, else that for temporary files."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(stated):
        yield Path(stated) / "pplcnet"
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        yield Path(home) / ".local" / "state" / "pplcnet"
    with contextlib.suppress(OSError):  # no folder for temporary files can be written to
        yield Path(tempfile.gettempdir())


def _report(error: BaseException) -> str:
    # `platform.platform` would start a process.
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return "\n".join(
        [
            f"pplcnet {__version__}, Python {platform.python_version()}, {system}",
            f"command: {command_line()}",
            f"packages: {json.dumps(_versions())}",
            "",
            *traceback.format_exception(error),
        ]
    )


def _versions() -> dict[str, str | None]:
    try:
        from ppcls_ext.core.run_folder import package_versions
    except ImportError as error:  # the installation itself may be what is broken
        return {"unknown": str(error)}
    return package_versions()
