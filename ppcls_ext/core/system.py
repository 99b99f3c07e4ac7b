"""What only some operating systems have, with what is done on the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


def usable_cpus() -> list[int]:
    """Numbers of the processors that this process may use; all of the machine's where that cannot be asked (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def lock(file: IO[str]) -> None:
    """Wait until no other process holds a lock on `file`, and hold it until the file is closed.

    Without file locks (Windows) it does nothing: there, two processes must not fill one cache at the same time.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: IO[Any]) -> bool:
    """Hold a lock on `file` until it is closed; gives False where another process has one. True without file locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held_by_process(file: IO[Any]) -> Iterator[None]:
    """Hold `file` alone among processes that inherited it by a fork; a process that dies lets go of it.

    Without file locks (Windows), where no process is forked, it does nothing.
    """
    if fcntl is None:
        yield
        return
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)
