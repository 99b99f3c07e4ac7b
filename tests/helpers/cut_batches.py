"""`pplcnet ...` where nothing depends on how a batch is cut in parts: batch norms use their running statistics in
training too, and nothing is dropped out.

It also sends itself the signals of the variable `SIGNALS`, where there is one: see `signals.py`.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)


@contextlib.contextmanager
def same_for_any_cut() -> Iterator[None]:
    """A process whose networks do not depend on how a batch is cut; it stays like this."""
    from paddle import nn

    nn.BatchNorm2D.__init__ = functools.partialmethod(nn.BatchNorm2D.__init__, use_global_stats=True)
    nn.Dropout.forward = lambda _, x: x
    yield


if __name__ == "__main__":
    from ppcls_ext.cli.main import main

    if os.environ.get("SIGNALS"):
        from tests.helpers.signals import send_signals

        send_signals()
    with same_for_any_cut():
        sys.exit(main())
