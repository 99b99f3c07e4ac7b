"""What changed between two reports of the benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, read_json

# A row of one report is compared with the row of the other in which these are equal.
IDENTITY = ("label", "engine", "threads", "batch", "size", "streams")
CONDITIONS = ("machine", "versions", "settings")  # under which a report was made, each with its keys


def read_report(path: Path) -> dict[str, Any]:
    """Read what `pplcnet benchmark --json` wrote. Raises UserError if it is something else."""
    try:
        report = read_json(path)
    except Unreadable as error:
        raise UserError(f"benchmark report {path}: cannot be read ({error}); give another file") from error
    if not _is_report(report):
        raise UserError(f"benchmark report {path}: it is not one; give a file that pplcnet benchmark --json wrote")
    return cast(dict[str, Any], report)


def _is_report(content: Any) -> bool:
    """Whether `compare_reports` finds what it reads of a report."""
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in CONDITIONS):
        return False
    results = content.get("results")
    return isinstance(results, list) and all(_is_row(row) for row in results)


def _is_row(row: Any) -> bool:
    """Whether it is what a benchmark says of a subject: a failure, or a latency and a ratio (None: to nothing)."""
    if not isinstance(row, dict) or not {*IDENTITY, "failure"} <= set(row):
        return False
    if not all(isinstance(row[name], str) for name in ("label", "engine")):
        return False
    if not all(type(row[name]) is int for name in ("threads", "batch", "streams")):
        return False
    if row["failure"] is not None:
        return isinstance(row["failure"], str)
    ratio = row.get("ratio_to_first", "")
    return _has_numbers(row.get("ms"), "median") and (ratio is None or _has_numbers(ratio, "ratio", "low", "high"))


def _has_numbers(values: Any, *names: str) -> bool:
    """Whether all are there as numbers above 0, as latencies and their ratios are."""
    found = [values.get(name) for name in names] if isinstance(values, dict) else [None]
    return all(isinstance(number, (int, float)) and not isinstance(number, bool) and number > 0 for number in found)


def identities(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows of a report by what they measured; equal ones (a model against itself) are told apart by their order."""
    found: dict[str, Mapping[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in report["results"]:
        identity = json.dumps([row[key] for key in IDENTITY])
        found[f"{identity} {seen[identity]}"] = row
        seen[identity] += 1
    return found


class Change(NamedTuple):
    """A row of two reports; milliseconds and ratios to the first subject, None where a report has none."""

    label: str
    engine: str
    threads: int
    batch: int
    old_ms: float | None
    new_ms: float | None
    old_ratio: float | None
    new_ratio: float | None
    verdict: str

    @property
    def new_over_old(self) -> float | None:
        """The ratio of the two latencies; None where either is missing."""
        return self.new_ms / self.old_ms if self.new_ms and self.old_ms else None


def compare_reports(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[Change]]:
    """What changed between two reports: lines about conditions, and rows.

    The verdict of a row is `faster` or `slower` against the first subject where the bootstrap intervals of the ratios
    do not meet, else `same`; `the first` of the subject that ratios are to; `another first` where they are to
    different subjects; `new` or `gone` where a report has no such row.
    """
    changes = []
    for part in CONDITIONS:
        before, after = old.get(part, {}), new.get(part, {})
        for key in sorted(set(before) | set(after)):
            if before.get(key) != after.get(key):
                changes.append(f"{part} {key}: {before.get(key)} -> {after.get(key)}")
    olds, news = identities(old), identities(new)
    same_first = list(olds)[:1] == list(news)[:1]
    rows = []
    for key in dict.fromkeys([*news, *olds]):
        a, b = olds.get(key), news.get(key)
        row = b or a or {}
        times = [r["ms"]["median"] if r and not r["failure"] else None for r in (a, b)]
        ratios = [r.get("ratio_to_first") if r else None for r in (a, b)]
        if a is None or b is None:
            verdict = "new" if a is None else "gone"
        elif times[0] is None or times[1] is None:
            verdict = "failed" if times[1] is None else "works again"
        elif not same_first:
            verdict = "another first"
        elif key == next(iter(news)):
            verdict = "the first"
        elif ratios[0] is None or ratios[1] is None:
            verdict = "no ratio"
        elif ratios[1]["low"] > ratios[0]["high"]:
            verdict = "slower"
        elif ratios[1]["high"] < ratios[0]["low"]:
            verdict = "faster"
        else:
            verdict = "same"
        old_ratio, new_ratio = (r["ratio"] if r else None for r in ratios)
        name = (row["label"], row["engine"], row["threads"], row["batch"])
        rows.append(Change(*name, times[0], times[1], old_ratio, new_ratio, verdict))
    return changes, rows
