"""Writing files so that a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ppcls_ext.core.errors import UserError

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}  # what else there is are devices


def regular_target(path: Path) -> Path:
    """Where a file for `path` belongs: there, or where `path` points to if it is a symlink, which then stays one.

    Raises:
        UserError: something that is not a regular file is there; renaming a file over it would destroy it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        raise UserError(f"{path} is a {kind} and is not written over; give the path of a file")
    return Path(os.path.realpath(path))


def atomic_write(path: Path, write: Callable[[Path], object], temporary_name: str | None = None) -> None:
    """Let `write` make a file at a temporary name beside `path`, then put it at `path` in one step.

    A crash at any moment leaves either the old file or the new one, never a part. A symlink stays one.

    Args:
        temporary_name: for callers that nobody else writes `path` at the same time: what a killed process leaves is
            then written over by the next one.
    Raises:
        UserError: what is at `path` is not a regular file.
    """
    target = regular_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(temporary_name or f".{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a crash leaves the old file or the new one; see `atomic_write`."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
