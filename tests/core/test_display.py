"""What commands show where there is no terminal."""

from __future__ import annotations

import pytest

from ppcls_ext.core import display


def test_plain_lines_of_progress_say_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 40))  # each look at the clock is 40 s after the one before it
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    with display.bar(20, "infer", start=10) as progress:
        progress.advance(values="2.0 images/s")
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "infer 11/20 eta 0:12:00 2.0 images/s"  # 80 s for the one that this run has done, nine are left
