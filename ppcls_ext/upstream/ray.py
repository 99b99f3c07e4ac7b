"""Workarounds for Ray."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from urllib.parse import urlsplit

CONNECT_SECONDS = 10.0


def why_unreachable(address: str) -> str | None:
    """Why nothing can be reached at an address of the form HOST:PORT; None where something can, and for other forms.

    ray 2.60.0: where nothing listens, `ray.init` tries again for minutes, without a word. Can go when it gives up in
    seconds.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
        if host is not None and port is not None:  # else it is `auto`, or a name of Ray's own
            socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM does what it does outside, or where that is nothing in Python, ends the process by SystemExit.

    ray 2.60.0: `ray.init` sets a handler in C++, which prints a trace of its own. Can go when it leaves SIGTERM alone.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if callable(before):
            before(number, frame)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
