"""The engine that `auto` takes, as a subject of the benchmark; and whether it takes one that is fast enough."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ppcls_ext.bench.benchmark import run_benchmark
from ppcls_ext.bench.session import Subject, input_shapes
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.turns import DISCARDED, LEAST_CALLS
from ppcls_ext.core.config import parse
from ppcls_ext.core.display import complain, out
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.auto import check_auto, choose_fastest
from ppcls_ext.runtime.choice import AUTO, EngineChoice
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.inference import build_inference

ALLOWED = 1.03  # the choice may take so many times as long as the best engine
# What may be faster than the choice is measured so long, each. Two medians of a turn differ by a tenth by chance on a
# shared machine, so that the mean of 1000 turns is known to a percent.
CLOSE_SECONDS = 40.0
MOST_ROUNDS = 1000
# Where a process has its weights and buffers is drawn once, and makes it faster or slower.
FIRST_PROCESSES, CLOSE_PROCESSES = 2, 8
FIRST_ROUNDS = 20


def choice_for(subject: Subject) -> EngineChoice:
    """What `engine="auto"` takes for a subject's model, threads, batch and size.

    Raises:
        UserError: see `choose_fastest`.
    """
    exported = read_exported(subject.model)
    check_auto(exported)
    inference = build_inference(exported.task, exported.recipe, {})
    shapes = [tuple(spec["shape"]) for spec in input_shapes(subject)]
    return choose_fastest(exported, inference, shapes, subject.threads)


def chosen(subject: Subject) -> Subject:
    """A subject with the engine that is to be measured: its own, or the one that `auto` takes."""
    if subject.engine != AUTO:
        return subject
    choice = choice_for(subject)
    return replace(subject, engine=choice.engine, format=choice.model_format, automatic=True)


@dataclass(frozen=True)
class Regret:
    """How much slower than the best engine the one is that `auto` has taken.

    Attributes:
        auto, best: engine and model format.
        slower: times the time of the best; 1 where it is that, with the ends of a 95 % interval.
        reason: why it was taken.
    """

    model: str
    auto: str
    best: str
    slower: float
    low: float
    high: float
    reason: str

    @property
    def holds(self) -> bool:
        """Whether it is no slower than `ALLOWED`."""
        return self.slower <= ALLOWED

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "too slow"
        interval = f"{self.slower:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.model}: auto takes {self.auto}, the best is {self.best}: {interval} times its time, {verdict}"


def regret(subject: Subject, settings: Settings) -> Regret:
    """Let `auto` choose for a subject, then measure its choice and what could be faster, interleaved.

    Left out are engines of which `auto` says that their fastest call took several times as long as its choice's. What
    is surely slower after few turns drops out; the others then take so many that a few percent can be told.

    Raises:
        UserError: see `choose_fastest`.
    """
    choice = choice_for(subject)
    first = settings.model_copy(update={"rounds": FIRST_ROUNDS, "processes": FIRST_PROCESSES})
    own = replace(subject, engine=choice.engine, format=choice.model_format)
    others = [
        replace(subject, engine=candidate.engine, format=candidate.model_format)
        for candidate in choice.candidates
        if candidate.rounds and (candidate.engine, candidate.model_format) != (own.engine, own.format)
    ]
    rows = run_benchmark([own, *others], first, with_native=False)["results"] if others else [{}]
    close = rivals(others, rows[1:])
    if close:
        rows = run_benchmark([own, *close], many_turns(settings, rows[0]["ms"]["median"]), with_native=False)["results"]
    name = f"{own.engine} on {own.format}"
    worst = max((_times_slower(row) for row in rows[1:] if row.get("ratio_to_first")), default=None)
    if worst is None or worst[0] <= 1:
        return Regret(subject.name, name, name, 1.0, 1.0, 1.0, choice.reason)
    slower, low, high, best = worst
    return Regret(subject.name, name, best, slower, low, high, choice.reason)


def rivals(others: Sequence[Subject], rows: Sequence[Mapping[str, Any]]) -> list[Subject]:
    """Those of `others` that may be as fast as what `rows` compares them with; one that failed is none.

    The intervals are of few processes and may be too narrow, so one of three percent more counts too.
    """
    ratios = [row.get("ratio_to_first") for row in rows]
    return [other for other, ratio in zip(others, ratios, strict=True) if ratio and ratio["low"] < ALLOWED]


def many_turns(settings: Settings, milliseconds: float) -> Settings:
    """The settings with as many rounds of the fewest calls as fit into `CLOSE_SECONDS` for each subject.

    Args:
        milliseconds: of a call.
    """
    turn = (LEAST_CALLS + DISCARDED) * milliseconds / 1e3
    rounds = max(settings.rounds, min(MOST_ROUNDS, int(CLOSE_SECONDS / turn)))
    return settings.model_copy(
        update={"rounds": rounds, "processes": CLOSE_PROCESSES, "seconds": rounds * LEAST_CALLS * milliseconds / 1e3}
    )


def _times_slower(row: Mapping[str, Any]) -> tuple[float, float, float, str]:
    """How many times the time of a row's engine the choice takes, with the interval and the engine's name."""
    ratio = row["ratio_to_first"]
    return 1 / ratio["ratio"], 1 / ratio["high"], 1 / ratio["low"], f"{row['engine']} on {row['format']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m ppcls_ext.bench.automatic FOLDER ...`: whether `auto` is fast enough; 1 where it is not."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seconds", type=float, default=Settings.model_fields["seconds"].default)
    given = parser.parse_args(arguments)
    try:
        found = list(_regrets(given))
    except UserError as error:
        complain(f"automatic: {error}")
        return error.exit_status
    return int(not all(one.holds for one in found))


def _regrets(given: argparse.Namespace) -> Iterator[Regret]:
    size = None if given.size is None else (given.size[0], given.size[1])
    settings = parse(Settings, {"seconds": given.seconds}, "automatic")
    for model in given.models:
        found = regret(Subject(model, threads=given.threads, batch=given.batch, size=size), settings)
        out.print(str(found), markup=False)
        yield found


if __name__ == "__main__":
    raise SystemExit(main())
