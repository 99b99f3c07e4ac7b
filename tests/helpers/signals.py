"""`pplcnet ...` that sends itself, and what it has started, signals in training steps.

The variable `SIGNALS` says which: `rank:step:signal,...`, such as `1:10:SIGKILL`; without a job the rank is 0. A signal
comes at the start of the step, before the process hears of the others of its job. The process must have a group of its
own, as the launcher gives it. Where it loses a peer it waits for the launcher without a limit, so that a launcher which
is slow on a busy machine, or stopped, changes nothing.
"""

import os
import signal
import sys
from typing import Any

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)


def send_signals(text: str | None = None) -> None:
    """Have this process send what a text, or else `SIGNALS`, says of its rank."""
    from ppcls_ext.cls.task import Classification
    from ppcls_ext.core import distributed
    from tests.helpers.processes import SECONDS

    distributed.LAUNCHER_SECONDS = SECONDS
    rank = os.environ.get("PADDLE_TRAINER_ID", "0")
    parts = [part.split(":") for part in (text or os.environ["SIGNALS"]).split(",")]
    own = {int(step): signal.Signals[name] for number, step, name in parts if number == rank}
    take, taken = Classification.step, 0

    def step(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken in own:
            os.kill(0, own[taken])
        return take(*arguments)

    Classification.step = step


if __name__ == "__main__":
    from ppcls_ext.cli.main import main

    send_signals()
    sys.exit(main())
