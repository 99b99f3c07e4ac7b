"""What commands show where there is no terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ppcls_ext.core import display
from ppcls_ext.core.logs import log


def test_plain_lines_of_progress_say_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 40))  # each look at the clock is 40 s after the one before it
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    with display.bar(20, "infer", start=10) as progress:
        progress.advance(values="2.0 images/s")
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "infer 11/20 eta 0:12:00 2.0 images/s"  # 80 s for the one that this run has done, nine are left


@pytest.fixture
def fresh_log() -> Iterator[logging.Logger]:
    kept = log.level, log.propagate, log.handlers[:]
    log.level, log.propagate, log.handlers = logging.NOTSET, True, []
    yield log
    log.level, log.propagate, log.handlers = kept


def test_a_command_says_what_is_logged_once(fresh_log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    display.show_log()
    display.show_log()
    fresh_log.info("engines take turns")
    fresh_log.debug("nobody wants to know")
    assert capfd.readouterr().err.splitlines() == ["engines take turns"]


def test_a_level_that_the_caller_has_set_stands(fresh_log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    fresh_log.setLevel(logging.ERROR)
    display.show_log()
    fresh_log.info("engines take turns")
    assert capfd.readouterr().err == ""
