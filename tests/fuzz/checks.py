"""What the targets share: a folder for inputs, and what holds for every answer."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import LONGEST_SHOWN, one_line
from ppcls_ext.serve.limits import Refusal


@functools.cache
def folder() -> Path:
    """Where inputs are written; removed at the end of the process."""
    kept = tempfile.TemporaryDirectory(prefix="pplcnet-fuzz-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def written(name: str, content: bytes) -> Path:
    """A file with this content."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def only_user_errors() -> Iterator[None]:
    """Lets UserError pass, and a service's refusal of what a client sent, if the text shows as one line that a terminal
    does not obey; any other error is a fault.
    """
    try:
        yield
    except (UserError, Refusal) as error:
        status = 400
        if isinstance(error, Refusal):
            status = error.status
            error.text.encode()  # as its answer has to
        assert status in range(400, 500)
        shown = one_line(error)
        assert shown.strip(), "an error without a text"
        assert len(shown) <= LONGEST_SHOWN * 10 + 40
        assert len(shown.splitlines()) == 1
        shown.encode()
