"""`pplcnet benchmark`: subjects from flags, what is measured, and what is shown of it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppcls_ext.bench.automatic import chosen
from ppcls_ext.bench.benchmark import run_benchmark
from ppcls_ext.bench.changes import compare_reports, read_report
from ppcls_ext.bench.operators import profile
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.soak import HELD, check_runs, soak
from ppcls_ext.core.display import UNDEFINED, say, show_table
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.files import atomic_write_text, regular_target
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.exported import RECIPE, is_recipe, read_exported
from ppcls_ext.runtime.process import EngineFailed
from ppcls_ext.runtime.timing import CONFIDENCE

TIMES = ("median", "min", "mean", "p90", "p95", "p99", "std")  # what the table shows of each row's times
SHOWN_OPERATORS = 25  # the table of a profile shows the slowest ones; its JSON holds all


def subjects_from(
    models: Sequence[Path],
    engines: Sequence[str],
    threads: Sequence[int],
    batches: Sequence[int],
    size: tuple[int, int] | None,
    streams: int,
) -> list[Subject]:
    """Every model on every engine with every number of threads and every batch.

    Models whose folders have one name are told apart by their paths.
    """
    names = {model: Subject(model).name for model in models}
    labels = {model: str(model) if list(names.values()).count(name) > 1 else name for model, name in names.items()}
    grid = itertools.product(models, engines, threads, batches)
    return [Subject(model, engine, labels[model], n, batch, size, streams) for model, engine, n, batch in grid]


def milliseconds(value: float | None) -> str:
    """A latency in milliseconds as text."""
    return UNDEFINED if value is None else f"{value:.2f}"


def name_of(row: Mapping[str, Any]) -> str:
    """A row in a sentence: model and engine, and what else several rows may differ in where it is not 1."""
    more = [f"{row[key]} {key}" for key in ("threads", "streams") if row[key] != 1]
    more += [f"batch {row['batch']}"] * (row["batch"] != 1)
    return ", ".join([f"{row['label']} on {row['engine']}", *more])


def show_results(report: Mapping[str, Any]) -> None:
    """The table of results, and below it what makes figures doubtful."""
    machine = report["machine"]
    say(f"{machine['cpu']}, {machine['usable_cores']} usable cores, {machine['memory_gb']} GB")
    say(", ".join(f"{name} {number or 'not installed'}" for name, number in report["versions"].items()))
    columns = ["model", "engine", "threads", "batch", *TIMES, "images/s"]
    columns += [f"ratio [{CONFIDENCE:.0%}]", "load + first run", "resident MB"]
    rows, notes = [], [f"warning: {text}" for text in report["warnings"]]
    for row in report["results"]:
        name = (row["label"], row["engine"], str(row["threads"]), str(row["batch"]))
        if row["failure"]:
            rows.append((*name, "failed", *[UNDEFINED] * (len(columns) - len(name) - 1)))
            continue
        ms, ratio = row["ms"], row["ratio_to_first"]
        times = (milliseconds(ms[key]) for key in TIMES)
        ratios = f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "first failed"
        rss = f"{row['rss_before_mb']:.0f} -> {row['rss_after_mb']:.0f}"
        load = f"{row['load_ms']:.0f} + {row['first_run_ms']:.0f}"
        rows.append((*name, *times, f"{row['throughput_per_s']:.1f}", ratios, load, rss))
        notes += [f"warning: {name_of(row)}: {text}" for text in row["warnings"]]
    show_table("milliseconds a call", columns, rows)
    for note in notes:
        say(note)


def show_profile(result: Mapping[str, Any]) -> None:
    """The slowest operators, and how the time divides over kinds."""
    shown = sorted(result["operators"], key=lambda op: -op["ms"])[:SHOWN_OPERATORS]
    title = (
        f"{name_of(result)}: {result['latency_ms']:.2f} ms a call, operators "
        f"{result['covered']:.0%} of it; the cores reach {result['peak_gflops']:.0f} GFLOP/s"
    )
    rows = [
        (
            op["kind"],
            op["kernel"] or UNDEFINED,
            op["detail"],
            f"{op['ms']:.3f}",
            f"{op['share']:.1%}",
            f"{op['gflops']:.1f}" if op["gflops"] else UNDEFINED,
            f"{op['of_peak']:.0%}" if op["of_peak"] else UNDEFINED,
        )
        for op in shown
    ]
    show_table(title, ("operator", "kernel", "problem", "ms", "share", "GFLOP/s", "of peak"), rows)
    kinds: dict[str, float] = {}
    for op in result["operators"]:
        kinds[op["kind"]] = kinds.get(op["kind"], 0.0) + op["share"]
    say("by kind: " + ", ".join(f"{kind} {share:.1%}" for kind, share in sorted(kinds.items(), key=lambda k: -k[1])))


def show_soak(result: Mapping[str, Any]) -> None:
    """Show what a soak test found, a line for each phase."""
    for phase in ("fixed", "varying"):
        found = result[phase]
        if found is None:
            say(f"soak {name_of(result)}: the model takes one size only, so sizes did not vary")
            continue
        held = ", ".join(f"{found[name][0]:.0f} -> {found[name][-1]:.0f} {unit}" for name, (_, unit) in HELD.items())
        verdict = f"{' and '.join(found['growing'])} growing" if found["growing"] else "steady"
        say(f"soak {name_of(result)}: {result['runs']} runs at {phase} size: {held}: {verdict}")


def show_comparison(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Show what changed between two reports, and the rows that both have."""
    changes, rows = compare_reports(old, new)
    for change in changes:
        say(f"changed: {change}")

    shown = [
        (
            row.label,
            row.engine,
            str(row.threads),
            str(row.batch),
            milliseconds(row.old_ms),
            milliseconds(row.new_ms),
            *(
                UNDEFINED if value is None else f"{value:.3f}"
                for value in (row.new_over_old, row.old_ratio, row.new_ratio)
            ),
            row.verdict,
        )
        for row in rows
    ]
    times = ("old ms", "new ms", "new/old", "old ratio", "new ratio")
    columns = ("model", "engine", "threads", "batch", *times, "against the first")
    show_table("compared with the old report", columns, shown)


def check_exports(subjects: Sequence[Subject]) -> None:
    """Raise UserError for an unknown engine, and for a folder that is not as export wrote it: another model would be
    measured. Folders of other tools, some of which have a file of the recipe's name, are left to the engines.
    """
    for subject in subjects:
        engine_class(subject.engine)
    for model in dict.fromkeys(subject.model for subject in subjects):
        if is_recipe(model / RECIPE):
            exported = read_exported(model)
            exported.verify(exported.checksums or {})


def check_target(file: Path) -> None:
    """Make the folder of a file that is to be written. Raises UserError where it cannot be written."""
    if file.is_dir():
        raise UserError(f"--json {file}: this is a folder; give a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--json {file}: its folder cannot be made ({error.strerror}); give another file") from error
    regular_target(file)
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"--json {file}: its folder cannot be written to; give another file")


def benchmark(
    subjects: Sequence[Subject],
    settings: Settings,
    json_file: Path | None = None,
    old: Path | None = None,
    profiled: bool = False,
    soak_runs: int | None = None,
) -> dict[str, Any]:
    """Measure, show, and write what was asked for.

    Raises:
        UserError: see `run_benchmark`, `read_report`, `check_runs` and `check_target`.
        CheckFailed: a subject failed, or what it holds keeps growing.
    """
    # What is wrong with the flags is said before minutes of measuring, not after them.
    before = read_report(old) if old is not None else None
    if soak_runs is not None:
        check_runs(soak_runs)
    if json_file is not None:
        check_target(json_file)
    subjects = [chosen(subject) for subject in subjects]
    check_exports(subjects)
    report = run_benchmark(subjects, settings)
    show_results(report)
    problems = [f"{name_of(row)}: {row['failure']}" for row in report["results"] if row["failure"]]
    works = [s for s, row in zip(subjects, report["results"], strict=True) if not row["failure"]]
    if profiled:
        report["profiles"] = []
        for subject in works:
            try:
                report["profiles"].append(profile(subject, settings))
                show_profile(report["profiles"][-1])
            except EngineFailed as failed:
                say(f"profile: {failed}")
    if soak_runs is not None:
        report["soak"] = []
        for subject in works:
            try:
                result = soak(subject, settings, soak_runs)
            except EngineFailed as failed:
                problems.append(f"soak: {name_of(asdict(subject) | {'label': subject.name})}: {failed}")
                continue
            report["soak"].append(result)
            show_soak(result)
            for phase in ("fixed", "varying"):
                for what in (result[phase] or {"growing": []})["growing"]:
                    problems.append(f"{name_of(result)}: {what} growing at {phase} size")
    if before is not None:
        show_comparison(before, report)
    if json_file is not None:
        atomic_write_text(json_file, json.dumps(report, indent=1) + "\n")
        say(f"written to {json_file}")
    if len(problems) == 1:
        raise CheckFailed(problems[0])
    if problems:
        for problem in problems:
            say(f"failed: {problem}")
        raise CheckFailed(f"{len(problems)} checks failed, the first: {problems[0]}")
    return report
