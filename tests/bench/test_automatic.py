"""Whether the engine that `auto` takes is fast enough: what is measured again, and what the verdict is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.bench import automatic
from ppcls_ext.bench.automatic import CLOSE_SECONDS, MOST_ROUNDS, many_turns, regret, rivals
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.runtime.choice import Candidate, EngineChoice

SUBJECT = Subject(Path("model"), threads=1)


def row(engine: str, ratio: tuple[float, float, float] | None = None) -> dict[str, Any]:
    """A row of a benchmark; without a ratio, of an engine that failed."""
    interval = dict(zip(("ratio", "low", "high"), ratio, strict=True)) if ratio else None
    return {"engine": engine, "format": "onnx", "ms": {"median": 2.0}, "ratio_to_first": interval}


def test_what_may_be_faster_is_measured_again_and_what_failed_is_not() -> None:
    others = [Subject(Path("model"), name) for name in ("slower", "tied", "failed")]
    rows = [row("slower", (1.2, 1.1, 1.3)), row("tied", (1.04, 1.01, 1.08)), row("failed")]
    assert rivals(others, rows) == [others[1]]


@pytest.mark.parametrize(
    ("milliseconds", "rounds", "seconds"), [(0.5, MOST_ROUNDS, 1.5), (16.0, 500, 24.0), (1000.0, 60, 180.0)]
)
def test_the_slower_a_call_the_fewer_turns_are_taken(milliseconds: float, rounds: int, seconds: float) -> None:
    """Of five calls each, of which two are not timed; never fewer turns than were asked for."""
    settings = many_turns(Settings(), milliseconds)
    assert (settings.rounds, settings.seconds) == (rounds, pytest.approx(seconds))
    assert rounds in (MOST_ROUNDS, Settings().rounds) or rounds * 5 * milliseconds / 1e3 == CLOSE_SECONDS


@pytest.mark.parametrize(
    ("second", "expected", "holds"),
    [((0.99, 0.98, 1.0), 1 / 0.99, True), ((0.9, 0.88, 0.92), 1 / 0.9, False), ((1.01, 1.0, 1.02), 1.0, True)],
)
def test_the_verdict_is_that_of_the_many_turns(
    monkeypatch: pytest.MonkeyPatch, second: tuple[float, float, float], expected: float, holds: bool
) -> None:
    """`auto` took a; b may be faster by the first look; c never was, and d was refused: they are not in the second."""
    tried = [Candidate("a", "onnx", rounds=9), Candidate("b", "onnx", rounds=9), Candidate("c", "onnx", rounds=9)]
    tried += [Candidate("d", "onnx", refused="it differs")]
    looks: list[list[str]] = []

    def benchmark(subjects: list[Subject], settings: Settings, with_native: bool) -> dict[str, Any]:
        looks.append([subject.engine for subject in subjects])
        first = [row("a", (1, 1, 1)), row("b", (0.5, 0.4, 1.1)), row("c", (1.5, 1.4, 1.6))]
        return {"results": first if len(looks) == 1 else [row("a", (1, 1, 1)), row("b", second)]}

    monkeypatch.setattr(automatic, "choice_for", lambda subject: EngineChoice("a", "onnx", "it leads", tuple(tried)))
    monkeypatch.setattr(automatic, "run_benchmark", benchmark)
    found = regret(SUBJECT, Settings())
    assert looks == [["a", "b", "c"], ["a", "b"]]
    assert found.slower == pytest.approx(expected)
    assert found.holds is holds
    assert ("holds" if holds else "too slow") in str(found)


def test_what_is_no_export_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert automatic.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_engine_without_rivals_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    sole = EngineChoice("a", "onnx", "no other engine is left", (Candidate("a", "onnx"),))
    monkeypatch.setattr(automatic, "choice_for", lambda subject: sole)
    assert regret(SUBJECT, Settings()).holds
