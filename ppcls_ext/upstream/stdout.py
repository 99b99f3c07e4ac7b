"""Workarounds for libraries that print from C++: on stdout, where a program's results go, or on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """What is printed inside on the file descriptor of stdout is thrown away.

    paddlepaddle 3.2.2: the graph passes of `enable_mkldnn_bfloat16` print statistics there whatever the log settings.
    Can go when `Config.disable_glog_info` silences them.
    """
    sys.stdout.flush()
    with _quiet(1):
        yield


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """What is printed inside on the file descriptor of stderr is thrown away, other threads' lines included: keep it
    short, and use it where errors are exceptions.

    ray 2.60.0: `ray.init` says on stderr that it has read RAY_BACKEND_LOG_LEVEL, whatever that level is. Can go when it
    says so at the level of its other information.
    """
    sys.stderr.flush()
    with _quiet(2):
        yield


@contextlib.contextmanager
def _quiet(descriptor: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
