"""`pplcnet ...` where nothing depends on how a batch is cut in parts: batch norms use their running statistics in
training too, and nothing is dropped out.

The variable `SIGNALS` (`rank:step:signal,...`, such as `1:10:SIGKILL`) has a process of a job send itself a signal in
that training step, before it hears of the others.
"""

import functools
import os
import signal
import sys
from typing import Any

from paddle import nn

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)

nn.BatchNorm2D.__init__ = functools.partialmethod(nn.BatchNorm2D.__init__, use_global_stats=True)
nn.Dropout.forward = lambda _, x: x


def send_signals(text: str) -> None:
    """Has this process send itself the signals of `SIGNALS` that are for its rank."""
    from ppcls_ext.cls.task import Classification

    parts = [part.split(":") for part in text.split(",")]
    own = {int(step): signal.Signals[name] for rank, step, name in parts if rank == os.environ["PADDLE_TRAINER_ID"]}
    take, taken = Classification.step, 0

    def step(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken in own:
            os.kill(os.getpid(), own[taken])
        return take(*arguments)

    Classification.step = step


if __name__ == "__main__":
    from ppcls_ext.cli.main import main

    if os.environ.get("SIGNALS"):
        send_signals(os.environ["SIGNALS"])
    sys.exit(main())
