"""The log: a JSON object in each line, whatever is in it, and never in the way."""

from __future__ import annotations

import io
import json
import logging
import threading

import pytest

from ppcls_ext.serve import log as log_module
from ppcls_ext.serve.log import Forward, Log
from tests.helpers.processes import SECONDS


def test_every_event_is_one_line() -> None:
    stream = io.StringIO()
    log = Log(stream, lambda: None)
    log("request", path="a\nb\x1b[2J", status=200)
    log("stopped")
    log.close()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["path"], first["status"]) == ("request", "a\nb\x1b[2J", 200)
    assert second.keys() == {"time", "event"}


def test_the_end_need_not_come_last() -> None:
    """What is said while the log is closed is written, and does not keep it open."""
    stream, said = io.StringIO(), threading.Event()
    before = set(threading.enumerate())
    log = Log(stream, lambda: None, gather=lambda: said.wait(SECONDS))
    (writer,) = (t for t in set(threading.enumerate()) - before if t.name == "pplcnet-log")
    log("stopped")
    log.close(seconds=0)
    log("too late")
    said.set()  # the writer finds all three
    writer.join(SECONDS)
    assert not writer.is_alive()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["stopped", "too late"]


def test_a_reader_that_takes_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            assert go.wait(30)
            return super().write(text)

    monkeypatch.setattr(log_module, "HELD_LINES", 5)
    lost: list[None] = []
    stream = Stuck()
    log = Log(stream, lambda: lost.append(None))
    for number in range(100):
        log("request", number=number)
    go.set()
    log.close()
    written = [json.loads(line)["number"] for line in stream.getvalue().splitlines()]
    assert len(written) + len(lost) == 100
    assert 5 <= len(written) <= 12  # those being written, and as many as may wait
    assert written == sorted(written)


def test_a_reader_that_is_gone_does_not_end_the_service() -> None:
    lost: list[None] = []
    stream = io.StringIO()
    log = Log(stream, lambda: lost.append(None))
    stream.close()
    log("request")
    log.close()
    assert len(lost) == 1


def test_messages_of_libraries_are_lines_too() -> None:
    stream = io.StringIO()
    log = Log(stream, lambda: None)
    logger = logging.getLogger("tests.serve.library")
    logger.addHandler(Forward(log))
    logger.propagate = False
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("Exception in\napplication")
    log.close()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["text"] == "Exception in application (ValueError: wrong)"
