"""List files and class names, and which part of a folder is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, decoded, read_regular
from ppcls_ext.core.text import fault_of_name, is_digits

CLASS_FILES = ("classes.txt", "labels.txt")  # looked for beside a list file
LONGEST_NAME = 1000  # characters of a class's name; it stands in tables and answers
LARGEST_FILE = 2**30  # bytes that a list file may have; ImageNet's has 40 MB


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a UTF-8 text file. Raises UserError if it is missing or something else."""
    if not path.is_file():
        raise UserError(
            f"{what} {path}: no such file; fix its path in the config (a relative one starts at Global.data_root, "
            "or without that at the working directory)"
        )
    try:
        text = decoded(read_regular(path, LARGEST_FILE))
    except Unreadable as error:
        raise UserError(f"{what} {path}: not a UTF-8 text file ({error})") from error
    lines = text.splitlines()
    if "\0" in text:
        number = next(number for number, line in enumerate(lines, start=1) if "\0" in line)
        raise UserError(f"{what} {path}, line {number}: it has a NUL character; no text file does")
    return lines


def joining(root: Path) -> Callable[[str], str]:
    """A function that gives `str(root / name)` for a name, several times as fast: a list may have millions of them."""
    start = str(root / "x")[:-1]

    def join(name: str) -> str:
        if not name or "//" in name or "/." in name or name[0] in "./" or name[-1] == "/":
            return str(root / name)  # a path may write these in another way
        return start + name

    return join


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names that a run folder keeps, one a line. Raises UserError for something else."""
    return tuple(read_lines(path, "class names of the run"))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one a line in order of the labels, or PaddleClas's `0 name` lines.

    Raises:
        UserError: no such file, no names, or numbers that do not run from 0 without a gap.
    """
    lines = [line.strip() for line in read_lines(path, "class names") if line.strip()]
    if not lines:
        raise UserError(f"class names {path}: the file is empty")
    if len(lines) > MOST_CLASSES:
        raise UserError(f"class names {path}: {len(lines)} names are more than {MOST_CLASSES}")
    for line in lines:
        check_class_name(line, f"class names {path}: '{line[:60]}'")
    split = [line.split(maxsplit=1) for line in lines]
    if all(len(parts) == 2 and is_digits(parts[0]) for parts in split):
        named = {int(number): name for number, name in split}
        if sorted(named) != list(range(len(lines))):
            raise UserError(f"class names {path}: the numbers must run from 0 to {len(lines) - 1}, each once")
        return tuple(named[i] for i in range(len(lines)))
    return tuple(lines)


def check_class_name(name: str, what: str) -> None:
    """Raise UserError for a class name that cannot be stored as a line of a text file.

    Args:
        what: how the error begins.
    """
    if len(name) > LONGEST_NAME:
        raise UserError(f"{what} has {len(name)} characters, the name of a class at most {LONGEST_NAME}; shorten it")
    fault = fault_of_name(name)
    if fault is not None:
        raise UserError(f"{what} {fault}, which the name of a class cannot have; rename it")


def class_file_beside(list_path: Path) -> Path | None:
    """The file of class names next to a list file, if there is one."""
    return next((list_path.parent / name for name in CLASS_FILES if (list_path.parent / name).is_file()), None)


def held_out(paths: Sequence[str], root: Path, fraction: float, split: str) -> list[int]:
    """The indices of `split` in `paths`: `fraction` of them are 'val', the others 'train'.

    It goes by the hash of each path below `root`, so that files keep their side when others are added.
    Raises:
        UserError: none is left.
    """

    def share(path: str) -> float:
        digest = hashlib.sha256(Path(path).relative_to(root).as_posix().encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:4], "big") / 2**32

    indices = [k for k, path in enumerate(paths) if (share(path) < fraction) == (split == "val")]
    if not indices:
        raise UserError(f"image folder {root}: val_fraction {fraction} leaves the {split} split empty")
    return indices
