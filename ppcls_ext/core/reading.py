"""Reading files that may be anything: only regular files are opened, and only up to a size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}  # what else there is are devices


def kind_of_file(mode: int) -> str:
    """What a file is that is no regular one, by its `st_mode`: a folder, FIFO, socket or device."""
    return _KINDS.get(stat.S_IFMT(mode), "device")


class Unreadable(OSError):
    """A file that is missing, is no regular file, or is too large. Its text is the reason, without the path."""


def check_regular(path: str | Path) -> int:
    """The size of a regular file in bytes. A FIFO would be waited for without end, and a device may not end.

    Raises:
        Unreadable: it is something else, or cannot be looked at.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except ValueError as error:  # NUL, or characters that no path has
        raise Unreadable("no path of a file") from error
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"it is a {kind_of_file(found.st_mode)}, not a file")
    return found.st_size


def read_regular(path: str | Path, largest: int) -> bytes:
    """The content of a regular file.

    Args:
        largest: bytes.
    Raises:
        Unreadable: it cannot be read, is no regular file, or is larger.
    """
    too_large = f"it is larger than {largest >> 20} MB"
    if check_regular(path) > largest:
        raise Unreadable(too_large)
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if len(data) > largest:  # it grew, or is one of those that have no size, as in /proc
        raise Unreadable(too_large)
    return data


def decoded(data: bytes) -> str:
    """UTF-8 text, without the mark that some editors put before it.

    Raises:
        Unreadable: not UTF-8, with the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line}: not UTF-8 text (byte {data[error.start]:#04x})") from error
