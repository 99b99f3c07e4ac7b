"""`pplcnet benchmark --end-to-end`: how long it takes from an image file to its result, beside what others take.

Every subject runs in processes of its own and all take turns, as in `ppcls_ext.bench.benchmark`; a call begins with the
path of an image, whose file the system has in memory, and ends with its result.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.benchmark import ratio_interval, summary, versions
from ppcls_ext.bench.command import check_target, milliseconds
from ppcls_ext.bench.end_to_end_worker import PADDLECLAS, PREDICTOR, SCRIPT
from ppcls_ext.bench.photo_runs import STREAM_BATCH, PhotoRun, PhotoSubject, measure, photo_subjects
from ppcls_ext.bench.photos import name_photos, write_photos
from ppcls_ext.bench.scripts import agreement
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.display import UNDEFINED, say, show_table
from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.images import find_images
from ppcls_ext.core.machine import machine
from ppcls_ext.core.text import command_line, counted
from ppcls_ext.runtime.auto import candidates
from ppcls_ext.runtime.choice import AUTO
from ppcls_ext.runtime.exported import Exported, read_exported


def rows_of(runs: Sequence[PhotoRun], seed: int) -> list[dict[str, Any]]:
    """A row of the report for each subject: its times, and how many times as fast as each reference it is."""
    references = [run for run in runs if run.subject.kind != PREDICTOR and run.failure is None]
    exact = next((run for run in runs if run.subject.decode == "exact" and run.failure is None), None)
    rows = []
    for run in runs:
        row: dict[str, Any] = {"subject": run.subject.name, **asdict(run.subject), "failure": run.failure}
        row["folder"] = str(run.subject.folder)
        row["images_per_s"] = {str(threads): rate for threads, rate in run.images_per_s.items()}
        if run.failure is None:
            row["n"] = int(run.samples.size)
            row["rounds"] = len(run.turns)
            row["ms"] = summary(run.samples)
            row["times_as_fast_as"] = {
                reference.subject.kind: ratio_interval(reference.samples, run.samples, seed, run.shares)
                for reference in references
                if reference is not run
            }
            if exact is not None:
                pairs = zip(run.gists, exact.gists, strict=True)
                row["agreement"] = float(np.mean([agreement(a, b) for a, b in pairs]))
        rows.append(row)
    return rows


def end_to_end(
    folders: Sequence[Path], engines: Sequence[str], images: Sequence[str], settings: Settings, json_file: Path | None
) -> dict[str, Any]:
    """Measure and show it for each export and each set of photos; gives a JSON-able report.

    Args:
        engines: none: every one that can run here.
        images: files, folders or globs; none: photos of two sizes are drawn.
    Raises:
        UserError: not an export, an unknown engine, images that are not there. CheckFailed: a Predictor failed.
    """
    if json_file is not None:
        check_target(json_file)
    exports = [read_exported(folder) for folder in folders]
    subjects = [photo_subjects(exported, engines) for exported in exports]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pplcnet-") as scratch:
        sets = name_photos([Path(file) for file in find_images(images)]) if images else write_photos(Path(scratch))
        for exported, chosen in zip(exports, subjects, strict=True):
            batch = exported.batch if exported.batch != -1 else STREAM_BATCH
            for name, runs in measure(chosen, sets, settings, batch).items():
                rows = rows_of(runs, settings.seed)
                results.append({"model": str(exported.folder), "photos": name, "batch": batch, "rows": rows})
                show(results[-1])
    report = {
        "command": command_line(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(_engines_of(exports, subjects)),
        "settings": settings.model_dump(mode="json"),
        "results": results,
    }
    if json_file is not None:
        atomic_write_text(json_file, json.dumps(report, indent=1) + "\n")
        say(f"written to {json_file}")
    failed = [row for result in results for row in result["rows"] if row["failure"] and row["kind"] == PREDICTOR]
    if failed:
        raise CheckFailed(f"{failed[0]['subject']}: {failed[0]['failure']}")
    return report


def _engines_of(exports: Sequence[Exported], subjects: Sequence[Sequence[PhotoSubject]]) -> list[str]:
    """The engines that were measured; of `auto`, those that it chose from."""
    found = {s.engine for chosen in subjects for s in chosen if s.engine}
    if AUTO in found:
        found = found - {AUTO} | {name.engine for exported in exports for name in candidates(exported)}
    return sorted(found)


def show(result: Mapping[str, Any]) -> None:
    """The table of an export on a set of photos."""
    threads = sorted({int(n) for row in result["rows"] for n in row["images_per_s"]})
    columns = ["subject", "median ms", "p99", "faster than PaddleClas", "than script", "as exact"]
    columns += [f"images/s, {counted(n, 'thread')}" for n in threads]
    rows = []
    for row in result["rows"]:
        if row["failure"]:
            rows.append((row["subject"], "failed", *[UNDEFINED] * (len(columns) - 2)))
            continue
        rates = (row["images_per_s"][str(n)] for n in threads)
        rows.append(
            (
                row["subject"],
                milliseconds(row["ms"]["median"]),
                milliseconds(row["ms"]["p99"]),
                *(_ratio(row["times_as_fast_as"].get(kind)) for kind in (PADDLECLAS, SCRIPT)),
                f"{row['agreement']:.1%}" if "agreement" in row else UNDEFINED,
                *(UNDEFINED if rate is None else f"{rate:.1f}" for rate in rates),
            )
        )
    show_table(
        f"{result['model']}, {result['photos']}: image file to result; streams of batch {result['batch']}",
        columns,
        rows,
    )
    for row in result["rows"]:
        if row["failure"]:
            say(f"{row['subject']}: {row['failure']}")


def _ratio(found: Mapping[str, float] | None) -> str:
    return UNDEFINED if found is None else f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
