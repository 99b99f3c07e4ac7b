"""Which of several engines runs a model fastest: rounds of turns in processes of their own, and the decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppcls_ext.core.device import usable_cores
from ppcls_ext.runtime.process import EngineFailed, EngineProcess
from ppcls_ext.runtime.timing import ratio_interval

Batches = Sequence[Sequence[np.ndarray]]

SECONDS = 20.0  # the rounds take this long, unless the result is clear before; two engines are then told to 2 %
TURN_MS = 12.0  # timed calls of a turn; in short rounds a machine's speed changes little
MOST_CALLS = 20  # a turn has no more calls than this
DISCARDED = 1  # calls at the start of each turn: another process has just used the caches
WARM_MS = 150.0  # each engine is called this long before the rounds, and at least `LEAST_WARM` times
LEAST_WARM, MOST_WARM = 2, 20
LEAST_ROUNDS = 12  # before any engine is left out
LEAST_SETTLED = 48  # before the result is clear: where a machine's speed jumps, few rounds claim too much
HOPELESS = 2.5  # times the fastest call of the best engine: what is slower takes no part in the rounds
BEATEN = 1.08  # an engine surely that many times as slow as the leader takes part no more
ENOUGH = 1.03  # an engine that surely takes no more than that many times the best one's time is good enough
ANSWER_SECONDS = 120.0  # an engine has this long to answer a command


class Name(NamedTuple):
    """An engine and the model format that it runs."""

    engine: str
    model_format: str

    def __str__(self) -> str:
        return f"{self.engine} on {self.model_format}"


class Contender(Protocol):
    """An engine that has opened the model."""

    def outputs(self, batches: Batches) -> list[list[np.ndarray]]:
        """The outputs for each batch. Raises EngineFailed."""

    def turn(self, calls: int, discarded: int) -> list[float]:
        """Milliseconds of `calls` calls, after `discarded` ones. Raises EngineFailed."""

    def close(self) -> None:
        """Let go of everything."""


class EngineContender:
    """A contender in a process of its own, since engines may crash.

    Args:
        inputs: `shape` and `dtype` of each input that is timed.
    Raises:
        EngineFailed: it cannot open the model.
    """

    def __init__(self, folder: Path, name: Name, inputs: Sequence[Mapping[str, Any]], threads: int) -> None:
        self._inputs = inputs
        self._process = EngineProcess(threads, seconds=ANSWER_SECONDS)
        try:
            self._process(
                "open",
                folder=str(folder.resolve()),
                engine=name.engine,
                model_format=name.model_format,
                threads=threads,
            )
        except BaseException:
            self.close()
            raise

    def outputs(self, batches: Batches) -> list[list[np.ndarray]]:
        """See `Contender`."""
        found: list[list[np.ndarray]] = self._process("run", batches=batches)
        return found

    def turn(self, calls: int, discarded: int) -> list[float]:
        """See `Contender`."""
        taken = self._process("measure", inputs=self._inputs, calls=calls, discarded=discarded)
        return [ns / 1e6 for ns in taken]

    def close(self) -> None:
        """End the process."""
        self._process.close()


@dataclass
class Entry:
    """What is known of an engine in a contest.

    Attributes:
        difference: of its outputs from those that the export stores; None where they cannot be compared.
        refused: why it cannot be chosen; empty where it can.
        note: why it was not measured to the end.
        rounds: milliseconds of the calls of each round.
    """

    name: Name
    difference: float | None = None
    refused: str = ""
    note: str = ""
    rounds: list[list[float]] = field(default_factory=list)
    contender: Contender | None = None
    calls: int = 1
    fastest: float = float("inf")  # milliseconds of a call while it warmed up

    @property
    def runs(self) -> bool:
        """Whether it takes part."""
        return self.contender is not None

    def stop(self) -> None:
        """End its part and let go of the engine."""
        if self.contender is not None:
            self.contender.close()
            self.contender = None

    def refuse(self, why: str) -> None:
        """End its part: it cannot be chosen."""
        self.refused = why
        self.stop()

    def leave(self, note: str) -> None:
        """End its part: it agrees, but there is no use in timing it further."""
        self.note = note
        self.stop()


def ratio(one: Entry, other: Entry, seed: int = 0) -> dict[str, float]:
    """How many times as long `one` takes as `other`, over the rounds that both were in: `ratio`, `low`, `high`."""
    common = min(len(one.rounds), len(other.rounds))
    return ratio_interval(np.array(one.rounds[:common]), np.array(other.rounds[:common]), seed)


class Decision(NamedTuple):
    """Which engine is to be taken by what is known so far, why, and whether more rounds could change it."""

    winner: Entry
    reason: str
    settled: bool


def decide(entries: Sequence[Entry]) -> Decision:
    """The fastest, unless its lead over the first entry, which is the preferred engine, is within the noise.

    Settled once the winner is surely faster than the preferred engine or is that, and at most `ENOUGH` times as slow as
    any other.
    """
    preferred = entries[0]
    # What left early was surely slower. Against it only the few rounds would count that both were in.
    most = max(len(entry.rounds) for entry in entries)
    last = [entry for entry in entries if len(entry.rounds) == most]
    leader = min(last, key=lambda entry: ratio(entry, last[0])["ratio"])
    if leader is preferred:
        winner, reason = preferred, "it is the fastest"
    else:
        lead = ratio(leader, preferred)
        figures = f"{lead['ratio']:.3f} [{lead['low']:.3f}, {lead['high']:.3f}] times the time of {preferred.name}"
        if lead["high"] < 1:
            winner, reason = leader, f"it is the fastest: {figures}"
        else:
            winner, reason = preferred, f"the lead of {leader.name} is within the noise: {figures}"
    others = [entry for entry in entries if entry is not winner]
    return Decision(winner, reason, all(ratio(winner, other)["high"] <= ENOUGH for other in others))


def compete(
    names: Sequence[Name],
    start: Callable[[Name], Contender],
    judge: Callable[[Name, list[list[np.ndarray]]], float],
    batches: Batches,
    tolerance: float,
    seconds: float | None = None,
    seed: int = 0,
) -> tuple[list[Entry], Decision | None]:
    """Let engines open the model, compare their outputs, and time those that agree, interleaved.

    All that agree are open at the same time until each leaves: in every round all take a turn, so that what changes the
    machine's speed changes all alike. With a cap, engines of two groups would be timed under different conditions, or
    be opened and warmed up again for each turn. No more than `names` are open, which today is at most seven (engines of
    float32 times the formats that each runs), in a process of some hundred megabytes each.

    Args:
        names: the preferred one first; where several are as fast, the first of these that agrees is taken.
        start: opens the model with an engine; raises EngineFailed.
        judge: how far an engine's outputs for `batches` are from what they must be; raises EngineFailed if they cannot
            be compared.
        tolerance: of `judge`.
        seconds: of rounds, at most; default: `SECONDS`.
        seed: of the order in which engines take their turns.
    Returns:
        All of them, and the decision; None where no engine agrees.
    """
    entries = [Entry(name) for name in names]
    try:
        with ThreadPoolExecutor(max(1, min(len(entries), usable_cores()))) as pool:
            list(pool.map(lambda entry: _admit(entry, start, judge, batches, tolerance), entries))
        agreed = [entry for entry in entries if entry.runs]
        if len(agreed) > 1:
            _warm_up(agreed)
            agreed = [entry for entry in agreed if not entry.refused]
            _rounds(agreed, SECONDS if seconds is None else seconds, np.random.default_rng(seed))
        agreed = [entry for entry in agreed if not entry.refused]
        if not agreed:
            return entries, None
        timed = [entry for entry in agreed if entry.rounds]
        if not timed:
            return entries, Decision(agreed[0], "no other engine is left", True)
        return entries, decide(timed)
    finally:
        for entry in entries:
            entry.stop()


def _admit(
    entry: Entry,
    start: Callable[[Name], Contender],
    judge: Callable[[Name, list[list[np.ndarray]]], float],
    batches: Batches,
    tolerance: float,
) -> None:
    """Open the model and compare outputs; an engine that fails or differs is refused with the reason."""
    with _refusing(entry):
        entry.contender = start(entry.name)
        entry.difference = judge(entry.name, entry.contender.outputs(batches))
        if not entry.difference <= tolerance:  # true for NaN too
            entry.refuse(
                f"its outputs differ from dygraph's by {entry.difference:.1e}, the tolerance is {tolerance:.0e}"
            )


@contextmanager
def _refusing(entry: Entry) -> Iterator[None]:
    """What fails inside is the reason why an engine is refused, and no more."""
    try:
        yield
    except EngineFailed as failed:
        entry.refuse(str(failed))


def _warm_up(entries: Sequence[Entry]) -> None:
    """Bring every engine to its speed, see how many calls a turn has, and leave out the hopeless ones.

    Each takes two turns, the second in reverse order, so that a machine that was busy for a moment drops no engine.
    """
    for entry in (*entries, *reversed(entries)):
        with _refusing(entry):
            if entry.contender is None:  # refused in its first turn
                continue
            first = min(entry.contender.turn(1, DISCARDED))
            calls = int(np.clip(WARM_MS / 2 / max(first, 1e-6), LEAST_WARM, MOST_WARM))
            entry.fastest = min(entry.fastest, *entry.contender.turn(calls, 0))
            entry.calls = int(np.clip(TURN_MS / max(entry.fastest, 1e-6), 1, MOST_CALLS))
    best = min(entry.fastest for entry in entries)
    for entry in entries:
        if entry.runs and entry.fastest > HOPELESS * best:
            entry.leave(f"not timed further: {entry.fastest / best:.1f} times the fastest call of the best")


def _rounds(entries: Sequence[Entry], seconds: float, order: np.random.Generator) -> None:
    """Rounds of turns of all, until it is clear which engine to take or the time is over."""
    end, played, checked = time.monotonic() + seconds, 0, LEAST_ROUNDS
    running = [entry for entry in entries if entry.runs]
    while len(running) > 1 and (played < LEAST_ROUNDS or time.monotonic() < end):
        # In another order each round: who comes after whom matters to caches and clocks.
        for k in order.permutation(len(running)):
            contender = running[k].contender
            assert contender is not None
            with _refusing(running[k]):
                running[k].rounds.append(contender.turn(running[k].calls, DISCARDED))
        played += 1
        running = [entry for entry in running if entry.runs]
        if played >= checked and len(running) > 1:
            # Each look at the figures is a chance to be wrong: there are few of them.
            checked = 2 * played
            decision = decide(running)
            if decision.settled and played >= LEAST_SETTLED:
                return
            for entry in running:
                if ratio(entry, decision.winner)["low"] > BEATEN:
                    entry.leave(f"not timed further after {played} rounds: surely slower")
            running = [entry for entry in running if entry.runs]
