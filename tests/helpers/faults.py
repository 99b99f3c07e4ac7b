"""Faults in the module that writes all files (`ppcls_ext.core.files`): no space, no rights, half a file, a kill.

The steps of a write, in their order, are `fill` (the content of a temporary file), `sync` (of that file), `rename` (to
its name) and `sync` (of the folder).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.core import files

STEPS = ("fill", "sync", "rename")

Fault = Callable[[Path], None]


def no_space(_: Path) -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_rights(_: Path) -> None:
    """A folder that this user may not write to."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def bad_disk(_: Path) -> None:
    """A disk that fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def half_then_full(path: Path) -> None:
    """A short write: half of the content is there when the disk is full."""
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    no_space(path)


def kill(_: Path) -> None:
    """`kill -9` of this process."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def fault_at(number: int, fault: Fault, after: bool = False) -> Iterator[list[str]]:
    """While this lasts, step number `number` (from 1) of all steps has a fault; gives the steps that were taken.

    Args:
        after: the fault comes when the step is done, else in its place.
    """
    taken: list[str] = []
    own = {name: getattr(files, name) for name in STEPS}

    def wrapped(name: str) -> Callable[..., Any]:
        def step(path: Path, *arguments: Any) -> Any:
            taken.append(name)
            mine = len(taken) == number
            if mine and not after:
                fault(path)
            value = own[name](path, *arguments)
            if mine and after:
                fault(path)
            return value

        return step

    for name in STEPS:
        setattr(files, name, wrapped(name))
    try:
        yield taken
    finally:
        for name, step in own.items():
            setattr(files, name, step)
