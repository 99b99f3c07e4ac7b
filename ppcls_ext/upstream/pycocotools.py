"""Workarounds for pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_pycocotools() -> Iterator[None]:
    """pycocotools 2.0 prints what it does and its results. Its errors still pass. Can go when it takes a
    flag for that.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        yield
