"""One process at a time in a folder, and its name for those who come second."""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from pathlib import Path
from typing import IO, Any

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import regular_target
from ppcls_ext.core.system import NoLocks, try_lock

LONGEST_NOTE = 10_000  # bytes


def locked(file: IO[Any], what: str, advice: str) -> bool:
    """Whether a file is this process's alone from now on. Where the file system has no locks, a line says so with what
    to do about it, and the file counts as ours.
    """
    try:
        return try_lock(file)
    except NoLocks as error:
        say(f"{what}: no lock there ({error.strerror}); {advice}")
        return True


class FolderLock:
    """Held from `acquire` to `release`, or to the end of the process, however that comes.

    The lock is one of the system, on a file in the folder that stays: nothing has to be cleaned up after a kill. The
    file says who holds the lock.

    Args:
        what: what the folder is, for messages, such as `run folder`.
        name: of the file.
    """

    def __init__(self, folder: Path, what: str, name: str = "run.lock") -> None:
        self.folder, self.what = folder, what
        self._path = folder / name
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        """Make the folder where it is not there, and take the lock.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.acquire()
        except OSError as error:
            raise UserError(f"{self.what} {self.folder}: {error.strerror}; give another folder") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Let the lock go."""
        self.release()

    def acquire(self) -> None:
        """Take the lock, of which the folder must be there; holding it already is fine.

        Where the file system has no locks a line says so, and the folder counts as held.
        Raises:
            UserError: another process holds it. OSError: the folder cannot be written.
        """
        if self._file is not None:
            return
        regular_target(self._path)
        file = open(self._path, "a+b")  # noqa: SIM115  (closed in release)
        if not locked(file, f"{self.what} {self.folder}", "do not start a second run in it"):
            holder = _holder(file)
            file.close()
            raise UserError(
                f"{self.what} {self.folder}: {holder} is still writing there; wait for it, or stop it, or give another "
                "folder"
            )
        _HELD.add(self)
        self._file = file
        file.truncate(0)
        note = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(note).encode() + b"\n")
        file.flush()

    def release(self) -> None:
        """Let the lock go, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _holder(file: IO[bytes]) -> str:
    """Who holds a lock, by what it has written into the file."""
    file.seek(0)
    try:
        note: Any = json.loads(file.read(LONGEST_NOTE))
        return f"process {int(note['pid'])} on {str(note['host'])[:100]}, started {str(note['start'])[:40]},"
    except (ValueError, OverflowError, KeyError, TypeError, RecursionError):
        return "another process"  # it is just about to write its note


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget() -> None:
    """In a process that was forked off: close its copies, since a lock lasts as long as any copy of its file is open.

    Closing a copy leaves the lock to its owner.
    """
    for held in list(_HELD):
        held.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
