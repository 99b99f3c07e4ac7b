"""The one module that writes files: a crash leaves the old one or the new one, never a part, and what is there stays.

Every write of the project is one of these: `atomic_write` makes a file anew, `append_line` adds to one,
`put_in_place` and `put_folder_in_place` move what was written elsewhere. The steps that they are made of (`fill`,
`sync`, `rename`) are functions of their own, so that tests can let each of them fail, or kill the process there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import kind_of_file
from ppcls_ext.core.system import exchange

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # from file systems that have no fsync of folders


def regular_target(path: Path) -> Path:
    """Where a file for `path` belongs: there, or where `path` points to if it is a symlink, which then stays one.

    Raises:
        UserError: something that is not a regular file is there; renaming a file over it would destroy it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{str(path)!r} is no path of a file ({error})") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a {kind_of_file(mode)} and is not written over; give the path of a file")
    return Path(os.path.realpath(path))


def atomic_write(path: Path, write: Callable[[Path], object], temporary_name: str | None = None) -> None:
    """Let `write` make a file at a temporary name beside `path`, then put it at `path` in one step.

    A crash at any moment leaves either the old file or the new one, never a part; once this returns, the new one is on
    the disk. A symlink stays one.

    Args:
        temporary_name: for callers that nobody else writes `path` at the same time: what a killed process leaves is
            then written over by the next one.
    Raises:
        UserError: what is at `path` is not a regular file.
        OSError: no space, no rights; it names `path`, where the old file still is.
    """
    target = regular_target(path)
    temporary = target.with_name(temporary_name or f".{target.name}.{os.getpid()}.tmp")
    with naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # left by a killed process, or a link or FIFO that must not be written to
        try:
            fill(temporary, write)
            sync(temporary)
            put_in_place(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # the failure before it is the one to report
                temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a crash leaves the old file or the new one; see `atomic_write`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write bytes so that a crash leaves the old file or the new one; see `atomic_write`."""
    atomic_write(path, lambda temporary: temporary.write_bytes(data))


def append_line(path: Path, line: str, durable: bool) -> None:
    """Append a line of UTF-8 text. Half a line, which a crash has left, is ended first: it does not spoil this one.

    Args:
        durable: return only once the line is on the disk.
    Raises:
        UserError: what is at `path` is not a regular file. OSError: it cannot be written; it names `path`.
    """
    target = regular_target(path)
    with naming(path), open(target, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode("utf-8") + b"\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())


def put_in_place(source: Path, target: Path) -> None:
    """Move a file that was written and synced to `target` in one step, over what is there."""
    rename(source, target)
    sync(target.parent)


def put_folder_in_place(source: Path, target: Path) -> None:
    """Move a folder of files to `target`; an earlier folder there is whole until the new one is, and then goes.

    Where the file system can exchange two folders there is one at every moment. Elsewhere a kill between two renames
    leaves none: `restore_folder` brings the earlier one back.
    """
    sync_tree(source)
    if not target.exists():
        rename(source, target)
    elif exchange(source, target):
        shutil.rmtree(source, ignore_errors=True)
    else:
        old = _earlier(target)
        shutil.rmtree(old, ignore_errors=True)
        rename(target, old)
        rename(source, target)
        shutil.rmtree(old, ignore_errors=True)
    sync(target.parent)


def restore_folder(target: Path) -> None:
    """Bring back the folder that a kill in the middle of `put_folder_in_place` has left beside `target`, if any."""
    if _earlier(target).is_dir() and not target.exists():
        rename(_earlier(target), target)


def _earlier(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def fill(temporary: Path, write: Callable[[Path], object]) -> None:
    """The step in which a file's content is written."""
    write(temporary)


def sync(path: Path) -> None:
    """Return once a file, or the list of names in a folder, is on the disk."""
    if path.is_dir() and os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return once a folder with all that is in it is on the disk."""
    for inside in folder.rglob("*"):
        if not inside.is_symlink():
            sync(inside)
    sync(folder)


def rename(source: Path, target: Path) -> None:
    """The step in which what was written gets its name."""
    os.replace(source, target)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """`with naming(path): ...` gives errors of the system the path that they are about, and a full disk a way out."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = error.strerror
        if error.errno in _FULL:
            reason = "no space left on the disk; free some and go on, what was saved before is whole"
        raise OSError(error.errno, reason, str(path)) from error
