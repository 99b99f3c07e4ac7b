"""Workarounds for pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_pycocotools() -> Iterator[None]:
    """pycocotools (every version) prints what it does and its results. Its errors still pass."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
