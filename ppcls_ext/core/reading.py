"""Reading files that may be anything: only regular files are opened, and only up to a size."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

LARGEST_JSON = 64 << 20  # bytes; reports and notes that this package writes have a few MB at most
MOST_DIGITS = 18  # an integer with no more fits every type that it may become

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}  # what else there is are devices


def kind_of_file(mode: int) -> str:
    """What a file is that is no regular one, by its `st_mode`: a folder, FIFO, socket or device."""
    return _KINDS.get(stat.S_IFMT(mode), "device")


class Unreadable(OSError):
    """A file that is missing, is no regular file, or is too large. Its text is the reason, without the path."""


def check_regular(path: str | Path, largest: int | None = None) -> int:
    """The size of a regular file in bytes. A FIFO would be waited for without end, and a device may not end.

    Args:
        largest: bytes.
    Raises:
        Unreadable: it is something else, is larger, or cannot be looked at.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except ValueError as error:  # NUL, or characters that no path has
        raise Unreadable("no path of a file") from error
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"it is a {kind_of_file(found.st_mode)}, not a file")
    if largest is not None and found.st_size > largest:
        raise Unreadable(_too_large(largest))
    return found.st_size


def _too_large(largest: int) -> str:
    return f"it is larger than {largest >> 20} MB"


def read_regular(path: str | Path, largest: int) -> bytes:
    """The content of a regular file.

    Args:
        largest: bytes.
    Raises:
        Unreadable: it cannot be read, is no regular file, or is larger.
    """
    check_regular(path, largest)
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if len(data) > largest:  # it grew, or is one of those that have no size, as in /proc
        raise Unreadable(_too_large(largest))
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


def read_text(path: str | Path, largest: int) -> str:
    """The text of a regular file of UTF-8; see `read_regular` and `decoded`."""
    return decoded(read_regular(path, largest))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, in which every number is finite and every integer one of 64 bits; NaN is as it is.

    Raises:
        Unreadable: it cannot be read, is no regular file, is too large, or is no such JSON.
    """
    return parsed_json(read_text(path, LARGEST_JSON))


def parsed_json(text: str) -> Any:
    """The content of a text of JSON; see `read_json`."""
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_constant)
    except RecursionError as error:
        raise Unreadable("no JSON: nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"no JSON: {error}") from error


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"an integer of more than {MOST_DIGITS} digits")
    return int(digits)


def _constant(name: str) -> float:
    """NaN, or an infinity in the words that Python writes for one."""
    return math.nan if name == "NaN" else _finite(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number that is too large")
    return number
