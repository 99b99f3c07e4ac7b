"""Workaround for libraries that print on stdout from C++, where a program's results go."""

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
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
