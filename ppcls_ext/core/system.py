"""What only some operating systems have, with what is done on the others."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

try:
    import resource
except ImportError:  # nor these limits
    resource = None  # type: ignore[assignment]


def usable_cpus() -> list[int]:
    """Numbers of the processors that this process may use; all of the machine's where that cannot be asked (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def allow_open_files(count: int) -> None:
    """Let this process have so many files and connections open, or as many as the system's administrator allows."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class NoLocks(OSError):
    """Raised where this operating system, or the file system, has no file locks."""


def lock(file: IO[Any]) -> None:
    """Wait until no other process holds a lock on `file`, and hold it until the file is closed.

    Raises:
        NoLocks: there are none here.
    """
    _flock(file, wait=True)


def try_lock(file: IO[Any]) -> bool:
    """Hold a lock on `file` until it is closed or the process ends; gives False where another process has one.

    Raises:
        NoLocks: there are none here.
    """
    try:
        _flock(file, wait=False)
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


def _flock(file: IO[Any], wait: bool) -> None:
    if fcntl is None:
        raise NoLocks(errno.ENOSYS, "this system has no file locks")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocks(error.errno, error.strerror) from error


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def exchange(one: Path, other: Path) -> bool:
    """Give two files or folders each other's name in one step; gives False where the system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def reserve(path: Path) -> None:
    """Take all the space of a file that is written with gaps, where the system can. Raises OSError if there is none."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
