"""Growing memory is told from memory that settles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.bench.session import Session, Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.soak import READINGS, SHAPES, growing, grows, soak, varying_shapes
from ppcls_ext.core.errors import UserError
from tests.helpers.growth import Sample, in_use_mb, report


def test_what_counts_as_growing() -> None:
    assert grows([100 + 2 * k for k in range(20)])
    assert not grows([100.0] * 20)
    assert not grows([100 + 30 * (1 - 0.5**k) for k in range(20)])  # settles
    assert not grows([100.0] * 9 + [140.0] * 11)  # one step
    assert not grows([100.0 + 8 * (k * 3 % 5) for k in range(20)])  # up and down
    assert not grows([100 + 0.3 * k for k in range(20)])  # within what allocators keep


def test_open_files_and_threads_that_pile_up_are_named() -> None:
    steady = [{"rss_mb": 100.0, "files": 10 + k % 2, "threads": 3} for k in range(20)]
    assert growing(steady) == []
    assert growing([one | {"files": 10 + k // 4} for k, one in enumerate(steady)]) == ["open files"]
    assert growing([one | {"threads": 3 + (k >= 12)} for k, one in enumerate(steady)]) == ["threads"]
    assert growing([one | {"threads": 3 + (k == 18)} for k, one in enumerate(steady)]) == []  # one more for a moment
    assert growing([one | {"rss_mb": 100.0 + 2 * k} for k, one in enumerate(steady)]) == ["memory"]


def test_a_long_run_is_judged_once_its_memory_has_settled() -> None:
    settled = [Sample(100 + 20 * (1 - 0.9**k), 50.0, 9, 3) for k in range(100)]
    assert report(settled, "settles") == 0
    assert report([one._replace(rss_mb=100 + k / 2) for k, one in enumerate(settled)], "grows") == 1
    assert report([one._replace(files=9 + k // 20) for k, one in enumerate(settled)], "opens more") == 1
    assert report([one._replace(files=9 + k % 7, threads=3 + k % 3) for k, one in enumerate(settled)], "varies") == 0
    assert report(settled[:5], "is too short") == 2


def test_memory_that_is_handed_out_is_counted() -> None:
    """An array stays while it is counted."""
    before = in_use_mb()
    array = np.ones(2**24, np.uint8)
    assert in_use_mb() - before > 15 or before == 0.0
    del array


@pytest.mark.slow
def test_many_shapes_are_tried(exported: Path) -> None:
    shapes = varying_shapes(Subject(exported), seed=0)
    assert len({str(s) for s in shapes}) == SHAPES  # the size is fixed, so the batch varies
    assert shapes[0][0]["shape"][1:] == [3, 48, 48]


@pytest.mark.slow
def test_onednn_is_steady_at_one_size_and_at_many(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppcls_ext.bench.soak.SHAPES", 5)  # batches of up to 5 images are quick
    found = soak(Subject(exported, "onednn"), Settings(warmup=2), 1000)
    assert len(found["fixed"]["rss_mb"]) == READINGS
    assert found["fixed"]["growing"] == found["varying"]["growing"] == []
    assert len(found["varying"]["threads"]) == READINGS
    assert min(found["varying"]["files"]) > 0


@pytest.mark.slow
def test_as_many_runs_as_were_asked_for(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"turn": 0, "vary": 0}

    class Counting(Session):
        def __call__(self, command: str, **arguments: Any) -> Any:
            if command == "turn":
                asked["turn"] += arguments["calls"]
            elif command == "vary":
                asked["vary"] += len(arguments["shapes"])
            return super().__call__(command, **arguments)

    monkeypatch.setattr("ppcls_ext.bench.soak.Session", Counting)
    monkeypatch.setattr("ppcls_ext.bench.soak.LEAST_RUNS", 50)
    soak(Subject(exported, "native"), Settings(warmup=1), 53)
    assert asked == {"turn": 1 + 53, "vary": SHAPES + 53}  # after warming up


@pytest.mark.slow
def test_too_few_runs_are_refused(exported: Path) -> None:
    with pytest.raises(UserError, match="at least 1000"):
        soak(Subject(exported), Settings(), 10)
