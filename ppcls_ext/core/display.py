"""What commands show: one progress bar on a terminal, plain lines elsewhere. Everything goes to stderr but results."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ppcls_ext.core.logs import log
from ppcls_ext.core.text import one_line

WIDE = 10_000  # characters

# Without emoji, since `:x:` in a path is no picture.
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
# A file or pipe takes lines of any length; only a terminal has to fold what is in a table.
out = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else WIDE)

PLAIN_SECONDS = 30.0  # between progress lines where there is no terminal
UNDEFINED = "-"  # stands in tables for a value that is not there
UNBROKEN = 20  # characters of a text cell that stay on one line where the table is wider than the terminal

_muted = False


def mute() -> None:
    """Say nothing more in this process, and show no bar: another one of the same job does. Errors still show."""
    global _muted
    _muted = True


def say(text: str) -> None:
    """A line for the user on stderr."""
    if not _muted:
        err.print(one_line(text), markup=False)


class _Said(logging.Handler):
    """Says what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(record.getMessage())
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def shown_log() -> Iterator[None]:
    """While this lasts, what the package logs is said: in a command, it is for the user."""
    handler, level, propagates = _Said(), log.level, log.propagate
    log.addHandler(handler)
    log.propagate = False
    if level == logging.NOTSET:
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


def complain(text: object, style: str = "red") -> None:
    """A line on stderr about something wrong, which no `mute` keeps back."""
    err.print(one_line(text), markup=False, style=style)


def show_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; columns of numbers are right-aligned, floats have four decimals, NaN is `UNDEFINED`."""
    table = Table(title=None if title is None else _plain(title), title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        longest = 0 if numeric else max((len(_cell(row[i])) for row in rows), default=0)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(_plain(column), justify=justify, overflow="fold", min_width=min(longest, UNBROKEN))
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _plain(value: Any) -> Text:
    """Text of unknown origin in which nothing is read as markup."""
    return Text(one_line(value))


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(UNDEFINED if math.isnan(value) else f"{value:.4f}")
    return _plain(value)


class Bar:
    """Progress over a known number of units, with a text of current values."""

    def __init__(self, progress: Progress | None, total: int, what: str, start: int) -> None:
        self._progress, self._total, self._what, self._done = progress, total, what, start
        self._start = start
        self._begun = self._printed = time.monotonic()
        self._task = progress.add_task(what, total=total, completed=start, values="") if progress else None

    def advance(self, units: int = 1, values: str = "") -> None:
        """Move on by `units`, and show `values` beside the bar."""
        self._done += units
        if self._progress is not None and self._task is not None:
            if values:
                self._progress.update(self._task, advance=units, values=values)
            else:
                self._progress.update(self._task, advance=units)
        elif time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            say(f"{self._what} {self._done}/{self._total} {self._left()} {values}".rstrip())

    def _left(self) -> str:
        """The time that the rest takes at the pace so far."""
        pace = (self._printed - self._begun) / max(1, self._done - self._start)
        return f"eta {timedelta(seconds=round(pace * (self._total - self._done)))}"


@contextlib.contextmanager
def bar(total: int, what: str, start: int = 0) -> Iterator[Bar]:
    """A progress bar with counts, elapsed and remaining time; gone when done."""
    if _muted or not sys.stderr.isatty():
        yield Bar(None, total, what, start)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield Bar(progress, total, what, start)


def values_text(values: Mapping[str, float]) -> str:
    """Values for a progress line: `loss 0.6931  top1 0.5000`."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
