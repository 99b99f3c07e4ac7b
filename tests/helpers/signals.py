"""`pplcnet ...` that sends itself, and what it has started, signals in training steps.

The variable `SIGNALS` says which: `rank:step:signal,...`, such as `1:10:SIGKILL`; without a job the rank is 0. A signal
comes at the start of the step, before the process hears of the others of its job. The process must have a group of its
own, as the launcher gives it.
"""

import os
import signal
import sys
from typing import Any

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)


def send_signals() -> None:
    """Have this process send what `SIGNALS` says of its rank."""
    from ppcls_ext.cls.task import Classification

    rank = os.environ.get("PADDLE_TRAINER_ID", "0")
    parts = [part.split(":") for part in os.environ["SIGNALS"].split(",")]
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
