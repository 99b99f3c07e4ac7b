"""What changed between two reports of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ppcls_ext.errors import UserError

IDENTITY = ("label", "engine", "threads", "batch", "size", "streams")  # of a row, over reports
CONDITIONS = ("machine", "versions", "settings")  # under which a report was made, each with its keys


def read_report(path: Path) -> dict[str, Any]:
    """Read what `pplcnet benchmark --json` wrote. Raises UserError if it is something else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"benchmark report {path}: cannot be read ({' '.join(str(error).split())}); give another file"
        ) from error
    if not _is_report(report):
        raise UserError(f"benchmark report {path}: it is not one; give a file that pplcnet benchmark --json wrote")
    return cast(dict[str, Any], report)


def _is_report(content: Any) -> bool:
    """Whether `compare` finds what it reads of a report."""
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in CONDITIONS):
        return False
    results = content.get("results")
    return isinstance(results, list) and all(
        isinstance(row, dict)
        and {*IDENTITY, "failure"} <= set(row)
        and (row["failure"] is not None or {"ms", "ratio_to_first"} <= set(row))
        for row in results
    )


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """What changed between two reports: lines about conditions, and rows.

    A row is label, engine, threads, old and new median (ms), new over old, old and new ratio to the first subject,
    and a word: `faster` or `slower` where the bootstrap intervals of the ratios do not meet, else `same`;
    `new` or `gone` where a report has no such row.
    """
    changes = []
    for part in CONDITIONS:
        before, after = old.get(part, {}), new.get(part, {})
        for key in sorted(set(before) | set(after)):
            if before.get(key) != after.get(key):
                changes.append(f"{part} {key}: {before.get(key)} -> {after.get(key)}")

    def keyed(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        return {json.dumps([row.get(key) for key in IDENTITY]): row for row in report["results"]}

    rows: list[tuple[Any, ...]] = []
    olds, news = keyed(old), keyed(new)
    for key in [*news, *(k for k in olds if k not in news)]:
        a, b = olds.get(key), news.get(key)
        row = b or a or {}
        name = (row["label"], row["engine"], row["threads"])
        times = [r["ms"]["median"] if r and not r["failure"] else None for r in (a, b)]
        ratios = [r.get("ratio_to_first") if r else None for r in (a, b)]
        if a is None or b is None:
            verdict = "new" if a is None else "gone"
        elif times[0] is None or times[1] is None:
            verdict = "failed" if times[1] is None else "works again"
        elif ratios[0] is None or ratios[1] is None:
            verdict = "no ratio"
        elif ratios[1]["low"] > ratios[0]["high"]:
            verdict = "slower"
        elif ratios[1]["high"] < ratios[0]["low"]:
            verdict = "faster"
        else:
            verdict = "same"
        change = times[1] / times[0] if times[0] and times[1] else None
        rows.append((*name, *times, change, *(r["ratio"] if r else None for r in ratios), verdict))
    return changes, rows
