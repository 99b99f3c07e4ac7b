"""Loops that Numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numba


class Compiled:
    """A kernel, with the interpreter's lock released while it runs.

    Sums may be taken in any order, so that they use vector registers; NaN and infinity stay what they are.
    """

    options: ClassVar[dict[str, Any]] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    }

    def __new__(cls, function: Callable[..., None]) -> Any:
        """The compiled function."""
        try:
            return numba.njit(cache=True, **cls.options)(function)
        except RuntimeError:  # no folder that Numba could keep the compiled code in: compiled in every process
            return numba.njit(**cls.options)(function)
