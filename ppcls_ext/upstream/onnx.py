"""Workarounds for paddle2onnx."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ppcls_ext.upstream.imports import quiet_import


def paddle2onnx() -> Any:
    """The module paddle2onnx. Raises ImportError where it is not installed.

    paddle2onnx 2.1.0: its default optimisation runs polygraphy, which pip-installs what it misses, from an index of
    its own, without asking. The lock leaves polygraphy out, its one caller asks for no optimisation (engines fold
    constants themselves), and this forbids the installing. Can go when paddle2onnx stops using polygraphy.
    """
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    with quiet_import():
        return importlib.import_module("paddle2onnx")
