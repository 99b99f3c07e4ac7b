"""Measurements take turns, each in a process of its own, so that a machine that slows down slows all of them alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import psutil

from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.cpu import Busy, Watch
from ppcls_ext.core.display import bar
from ppcls_ext.runtime.process import EngineFailed, EngineProcess

DISCARDED = 2  # calls at the start of each turn: another process has just used the caches
LEAST_CALLS = 3  # a turn has no fewer calls: the fewer, the less a round's median is worth


class TimedProcess(EngineProcess):
    """A process whose calls are timed."""

    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far, its threads included; 0 where it is gone."""
        try:
            return float(sum(psutil.Process(self.pid).cpu_times()[:2]))
        except psutil.NoSuchProcess:
            return 0.0


class Turns:
    """A measurement under way: its process, and the turns that it has had.

    Args:
        name: what the progress bar calls it.
    Attributes:
        session: None as long as there is no process.
        calls: in a turn; 0 as long as that is not known.
        discarded: calls before those.
        failure: why it was given up.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.session: TimedProcess | None = None
        self.calls = 0
        self.discarded = DISCARDED
        self.turns: list[dict[str, Any]] = []
        self.failure: str | None = None

    def plan(self, seconds: float) -> None:
        """Decide how many calls a turn has, once and for all, from the seconds that a call takes."""
        settings = self.settings
        if settings.iterations:
            self.calls = -(-settings.iterations // settings.rounds)
        elif not self.calls:
            self.calls = max(LEAST_CALLS, round(settings.seconds / settings.rounds / seconds))

    def turn(self) -> None:
        """Time the calls of one turn, in the process that is open."""
        assert self.session is not None
        self.turns.append(self.session("turn", calls=self.calls, discarded=self.discarded))

    def fail(self, reason: str) -> None:
        """Give up, for a reason that its row will show."""
        self.failure = reason
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None

    @property
    def samples(self) -> np.ndarray:
        """Milliseconds [rounds, calls]."""
        return np.array([turn["ns"] for turn in self.turns], float) / 1e6


T = TypeVar("T", bound=Turns)


def take_all_turns(measurements: Sequence[T], settings: Settings, start: Callable[[T], None]) -> list[Busy]:
    """Every round of `settings`; after some rounds each measurement goes on in another process.

    Args:
        start: opens a process of a measurement.
    Returns:
        for each share of the rounds, how busy the machine was with other things meanwhile.
    """
    order = np.random.default_rng(settings.seed)
    busy = []
    with contextlib.ExitStack() as stack, bar(len(measurements) * len(settings.shares()), "measure") as progress:
        for measurement in measurements:
            stack.callback(measurement.close)
        for rounds in settings.shares():
            for measurement in measurements:
                if measurement.failure is None:
                    with failing(measurement):
                        start(measurement)
            busy.append(take_turns(measurements, rounds, order))
            for measurement in measurements:
                measurement.close()
                progress.advance(1, measurement.name)
    return busy


@contextlib.contextmanager
def failing(measurement: Turns) -> Iterator[None]:
    """An engine that fails inside ends this measurement, and no other one."""
    try:
        yield
    except EngineFailed as failed:
        measurement.fail(str(failed))


def take_turns(measurements: Sequence[Turns], rounds: int, order: np.random.Generator) -> Busy:
    """Let all that have not failed take turns; gives how busy the machine was with other things meanwhile."""
    before, watch = _own_seconds(measurements), Watch()
    for _ in range(rounds):
        # The order changes each round, since who comes after whom matters to caches and clocks.
        for k in order.permutation(len(measurements)):
            if measurements[k].failure is None:
                with failing(measurements[k]):
                    measurements[k].turn()
    after = _own_seconds(measurements)
    return watch.busy(sum(after[key] - before[key] for key in after))


def _own_seconds(measurements: Sequence[Turns]) -> dict[int, float]:
    """Processor time so far of this process and of each measurement, by process id, in seconds.

    All of it, not that of timed calls: what is discarded, and threads that spin between turns, are not other processes.
    """
    seconds = {os.getpid(): sum(psutil.Process().cpu_times()[:2])}
    return seconds | {
        measurement.session.pid: measurement.session.cpu_seconds()
        for measurement in measurements
        if measurement.session is not None
    }
