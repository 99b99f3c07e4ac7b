"""Workarounds for paddle2onnx."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """paddle2onnx 2.1.0 tells its progress on stdout, from C++ and from Python, where commands write their results.
    What goes to either stream meanwhile is dropped; failures are exceptions, or a file that is not there. Can go when
    paddle2onnx is quiet.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in kept:
                os.dup2(nowhere.fileno(), descriptor)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)
