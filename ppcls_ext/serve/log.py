"""The log of a service: a JSON object in each line."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any, TextIO

HELD_LINES = 10_000
GATHERING_S = 0.05  # lines of so long are written together: a thread that wakes for each would hold up requests


class Log:
    """Writes lines from a thread of its own, so that a reader that is slow to take them does not hold up the service.

    Args:
        stream: where the lines go.
        lost: called for each line that is dropped since too many wait.
        gather: waits for lines to be written together with one that has come; default: `GATHERING_S`, or to the end.
    """

    def __init__(self, stream: TextIO, lost: Callable[[], None], gather: Callable[[], object] | None = None) -> None:
        self._stream, self._lost = stream, lost
        self._lines: queue.Queue[str | None] = queue.Queue(HELD_LINES)
        self._closing = threading.Event()
        self._gather = gather or partial(self._closing.wait, GATHERING_S)
        self._thread = threading.Thread(target=self._write, name="pplcnet-log", daemon=True)
        self._thread.start()

    def __call__(self, event: str, **fields: Any) -> None:
        """Write a line of an event with its time."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        try:
            self._lines.put_nowait(json.dumps({"time": time, "event": event, **fields}))
        except queue.Full:
            self._lost()

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most so many seconds."""
        self._closing.set()
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write(self) -> None:
        end = False
        while not end:
            lines = [self._lines.get()]
            self._gather()
            for _ in range(self._lines.qsize()):
                lines.append(self._lines.get())
            end = None in lines  # it need not be the last: a library may log until the very end
            written = [line for line in lines if line is not None]
            try:
                self._stream.write("".join(line + "\n" for line in written))
                self._stream.flush()
            except (OSError, ValueError):  # the reader is gone: the service goes on without a log
                for _ in written:
                    self._lost()


class Forward(logging.Handler):
    """Hands what a library logs over to a `Log`, one line for each message and without tracebacks."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a message."""
        text = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        self._log("server", level=record.levelname.lower(), text=text[:500])
