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
def level() -> Iterator[None]:
    kept = log.level
    yield
    log.setLevel(kept)


def test_a_command_says_what_is_logged_and_leaves_the_log_as_it_was(
    level: None, capfd: pytest.CaptureFixture[str]
) -> None:
    log.setLevel(logging.NOTSET)
    before = log.handlers[:], log.propagate
    with display.shown_log():
        log.info("engines take turns")
        log.debug("nobody wants to know")
    assert capfd.readouterr().err.splitlines() == ["engines take turns"]
    assert (log.handlers, log.propagate, log.level) == (*before, logging.NOTSET)
    log.info("not a command's")
    assert capfd.readouterr().err == ""


def test_a_level_that_the_caller_has_set_stands(level: None, capfd: pytest.CaptureFixture[str]) -> None:
    log.setLevel(logging.ERROR)
    with display.shown_log():
        log.info("engines take turns")
    assert capfd.readouterr().err == ""


def test_what_looks_like_emoji_or_markup_is_shown_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    display.say("photos/:x:/[b]1.jpg")
    display.complain("photos/:smile: 2.jpg")
    display.show_table(":x:", ["[i]"], [[":smile:"]])
    shown = capfd.readouterr()
    assert shown.err.splitlines() == ["photos/:x:/[b]1.jpg", "photos/:smile: 2.jpg"]
    assert all(text in shown.out for text in (":x:", "[i]", ":smile:"))
