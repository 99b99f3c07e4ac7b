"""Text that users or their files gave: shown on one line, and checked before it is stored."""

from __future__ import annotations

import json
import os
import shlex
import sys
import unicodedata
from typing import Any

LONGEST_SHOWN = 2000  # characters of a message; what is cut off is counted

# A pattern such as \d or str.isdigit() also takes digits of other scripts and superscripts, which int() refuses.
_DIGITS = frozenset("0123456789")


def one_line(text: object, longest: int = LONGEST_SHOWN) -> str:
    """Text of unknown origin for a terminal or a picture: a single line without anything that a terminal obeys.

    Line breaks, control characters and bytes that are not UTF-8 become escapes such as `\\n`.
    """
    whole = str(text)
    shown = whole[:longest]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in shown)
    return shown if len(whole) <= longest else f"{shown} ... ({len(whole)} characters)"


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a path that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def is_digits(text: str) -> bool:
    """Whether a text is a short whole number without a sign, in the digits 0 to 9."""
    return 0 < len(text) <= 18 and _DIGITS.issuperset(text)


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: Python holds bytes of a path that are not UTF-8 as halves of characters."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def fault_of_name(name: str) -> str | None:
    """Why a text cannot be the name of a class or a file of one: such names are stored in files, a line each.

    Returns:
        the end of a sentence, such as "has a line break or another control character"; None where it can.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") and c != "\t" for c in name):
        return "has a line break or another control character"
    if not is_utf8(name):
        return "is not UTF-8"
    if name.startswith("\ufeff"):  # readers of files take it for a mark of the file, and drop it
        return "begins with an invisible byte order mark"
    return None


SHOWN = 200  # characters; a message shows no more of a value


def shown(value: Any) -> str:
    """A value of a config, short enough for a message."""
    return one_line(repr(value), SHOWN)


def counted(number: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def assignment(key: str, value: str | os.PathLike[str]) -> str:
    """KEY=VALUE as `-o` takes it, for a text as it is: YAML would read some as a number, a comment or nothing."""
    return f"{key}={json.dumps(os.fspath(value))}"


def command_line() -> str:
    """The command of this process, as a shell takes it; of the program the name alone."""
    program = os.path.basename(sys.argv[0])
    return shlex.join(["pplcnet" if program == "__main__.py" else program, *sys.argv[1:]])
