"""A clean stop: Ctrl-C and SIGTERM become a request that the training loop reads between steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from ppcls_ext.core.display import say


class Stopped(Exception):
    """Training was interrupted; the latest state is saved.

    Attributes:
        exit_status: what a shell expects of a process that ended by that signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_status = 128 + signal_number


class Interrupt:
    """Turns Ctrl-C or SIGTERM into a request that the loop reads between steps; a second Ctrl-C is immediate.

    A second SIGTERM is not: Paddle's launcher sends several, and who sends them can kill.

    Attributes:
        requested: number of the signal that asked for a stop; None as long as none did.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number
            say("stopping after this step, to save the latest state (Ctrl-C again: at once)")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
