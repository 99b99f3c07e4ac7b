"""The paper's tables on this machine: every network built, counted and timed, and runs of training read."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.bench.benchmark import run_benchmark
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import environment
from ppcls_ext.deploy.untrained import Network, build, formats_for
from ppcls_ext.paper.documents import RAW, identity_of, read_raw, read_run
from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.repeat import repeat_lines, second_run
from ppcls_ext.paper.report.page import write_reports
from ppcls_ext.paper.tables import NUMBERS, Variant, procedure, table

Benchmark = Callable[[Sequence[Subject], Settings], dict[str, Any]]

# With `quick` these replace the procedures' values: they suffice to see that everything works.
QUICK: dict[str, Any] = {"rounds": 2, "processes": 1, "seconds": 0.2, "warmup": 1}

# The estimate adds the seconds that a subject takes beside being measured (its process, parity, warm-up) and those of
# building a network.
OPENING_SECONDS, BUILDING_SECONDS = 5.0, 6.0


class TableBenchmark(NamedTuple):
    """What is measured together, interleaved: a table at one input size on one engine."""

    number: int
    variant: Variant
    engine: str

    @property
    def key(self) -> tuple[int, str, str]:
        """What tells it from the others, as the document has it."""
        return self.number, self.variant.name, self.engine


@dataclass(frozen=True)
class ReproductionPlan:
    """What is to be measured, and where.

    Attributes:
        out: folder of the reports.
        work: folder that networks are exported to, and found in by the next run.
        runs: run folders to take accuracies from.
        resume: keep what an earlier run left in `out`, and measure only what is missing.
        processes: that each network is run in, one after the other; None: as many as `Settings` says.
        minutes: begin nothing that would probably end later than this after the start; None: measure everything.
    """

    tables: tuple[int, ...]
    engines: tuple[str, ...]
    threads: int
    out: Path
    work: Path
    runs: tuple[Path, ...] = ()
    quick: bool = False
    resume: bool = False
    processes: int | None = None
    minutes: float | None = None

    def settings(self, variant: Variant) -> Settings:
        """How latencies at a variant are measured."""
        values: dict[str, Any] = {"rounds": variant.rounds, "seconds": variant.seconds, "warmup": variant.warmup}
        if self.processes is not None:
            values["processes"] = self.processes
        return Settings(**(QUICK if self.quick else values))

    def parts(self) -> Iterator[TableBenchmark]:
        """All that is to be measured."""
        for number in self.tables:
            for variant in procedure(number).variants:
                for engine in self.engines:
                    yield TableBenchmark(number, variant, engine)

    def seconds(self, part: TableBenchmark) -> float:
        """About how long a part takes on a quiet machine."""
        settings = self.settings(part.variant)
        each = settings.seconds + OPENING_SECONDS * len(settings.shares())
        return each * len(networks_of(part.number, part.variant))


def networks_of(number: int, variant: Variant) -> list[Network]:
    """The different networks of a table at an input size; the one that ratios are taken to comes first."""
    rows = [table(number).reference_row, *table(number).rows]
    return list(dict.fromkeys(network_of_row(row, procedure(number), variant) for row in rows))


def reproduce(plan: ReproductionPlan, benchmark: Benchmark = run_benchmark) -> dict[str, Any]:
    """Measure, and write reproduce.json, .md and .html into `plan.out`, after every part; gives the JSON's content.

    A network that cannot be built or run is a row with its reason.
    Raises:
        UserError: an unknown table or engine, a run folder that is none, a file in place of a folder, or another
            process that writes there.
    """
    if not plan.tables:
        raise UserError(f"--tables: none is given; the paper's tables of results are {NUMBERS[0]} to {NUMBERS[-1]}")
    for number in plan.tables:
        if number not in NUMBERS:
            raise UserError(f"--tables {number}: the paper's tables of results are {NUMBERS[0]} to {NUMBERS[-1]}")
    formats = formats_for(plan.engines)
    started = time.monotonic()
    with own_folders(plan):
        return _reproduced(plan, formats, benchmark, started)


@contextlib.contextmanager
def own_folders(plan: ReproductionPlan) -> Iterator[None]:
    """The folders of a plan, made, its report to be written by this process alone: two would lose what the other has
    measured.

    Raises:
        UserError: a file in place of a folder, or another process that writes there.
    """
    for flag, folder in (("--out", plan.out), ("--work", plan.work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{flag} {folder}: this folder cannot be made ({error.strerror}); give another") from error
    lock = FolderLock(plan.out, "report folder", "reproduce.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise UserError(f"--out {plan.out}: this folder cannot be written ({error.strerror}); give another") from error
    try:
        yield
    finally:
        lock.release()


def _reproduced(plan: ReproductionPlan, formats: Sequence[str], benchmark: Benchmark, started: float) -> dict[str, Any]:
    document = begun_document(plan)
    done = {(b["table"], b["variant"], b["engine"]) for b in document["benchmarks"]}
    parts = [part for part in plan.parts() if part.key not in done]
    networks = {n.name: n for number, variant, _ in plan.parts() for n in networks_of(number, variant)}
    say(f"{len(networks)} networks, {len(parts)} benchmarks: {_estimate(plan, parts, networks)}")
    with bar(len(networks), "build") as progress:
        for network in networks.values():
            document["networks"][network.name] = built_entry(network, plan.work, formats)
            progress.advance(1, network.name)
    save(plan.out, document)
    left = measure(plan, document, parts, benchmark, started)
    say(f"report: {plan.out / 'reproduce.html'}, reproduce.md, {RAW}")
    if left:
        say(f"{len(left)} benchmarks are left, which the same command with --resume measures")
    return document


def measure(
    plan: ReproductionPlan,
    document: dict[str, Any],
    parts: Sequence[TableBenchmark],
    benchmark: Benchmark,
    started: float,
) -> list[TableBenchmark]:
    """Measure parts in their order and save after each; gives those that `plan.minutes` leave no time for.

    Args:
        started: when the command began, of `time.monotonic`, in seconds.
    """
    left, expected, taken = [], 0.0, 0.0
    for index, part in enumerate(parts, start=1):
        begin = time.monotonic()
        pace = taken / expected if expected else 1.0  # this machine's, by what was measured so far
        if plan.minutes is not None and begin - started + pace * plan.seconds(part) > 60 * plan.minutes:
            left.append(part)  # a shorter one may still have time
            continue
        number, variant, engine = part
        say(f"{index}/{len(parts)}: Table {number} at {variant.name} on {engine}")
        ready = [n for n in networks_of(number, variant) if "failure" not in document["networks"][n.name]]
        report = measured_entry(ready, engine, plan, variant, benchmark)
        document["benchmarks"].append({"table": number, "variant": variant.name, "engine": engine, **report})
        save(plan.out, document)
        expected, taken = expected + plan.seconds(part), taken + time.monotonic() - begin
    return left


def _estimate(plan: ReproductionPlan, parts: Sequence[TableBenchmark], networks: dict[str, Network]) -> str:
    """How long it will take, in words."""
    new = sum(not (plan.work / name).is_dir() for name in networks)
    seconds = sum(plan.seconds(part) for part in parts) + new * BUILDING_SECONDS
    words = f"about {seconds / 60:.0f} minutes on a quiet machine"
    if plan.minutes is None:
        return words
    return f"{words}, of which {plan.minutes:g} are to be used"


def built_entry(network: Network, work: Path, formats: Sequence[str]) -> dict[str, Any]:
    """What the report says about a network; `failure` where it cannot be built."""
    entry: dict[str, Any] = {"config": network.config, "overrides": list(network.overrides)}
    try:
        return entry | identity_of(network.load()) | asdict(build(network, work, formats))
    except Exception as error:  # whatever the suites raise is the row's reason, and the other rows go on
        reason = f"{type(error).__name__}: {_first_line(error)}"
        say(f"{network.name}: not built: {reason}")
        return entry | {"failure": f"not built, {reason}"}


def measured_entry(
    networks: Sequence[Network], engine: str, plan: ReproductionPlan, variant: Variant, benchmark: Benchmark
) -> dict[str, Any]:
    """A benchmark's report as `report`, without the folders of models, or why there is none as `failure`."""
    if not networks:
        return {"failure": "no network could be built"}
    subjects = [Subject(plan.work / n.name, engine, n.name, plan.threads) for n in networks]
    try:
        report = benchmark(subjects, plan.settings(variant))
    except Exception as error:  # whatever an engine raises is the reason in the report, and the other tables go on
        reason = f"{type(error).__name__}: {_first_line(error)}"
        say(f"not measured: {reason}")
        return {"failure": reason}
    for row in report["results"]:
        row.pop("model", None)
    return {"report": report}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def save(out: Path, document: dict[str, Any]) -> None:
    """Write the raw values, and the reports made from them."""
    # In one line: it holds every round of every network, and is a third smaller so.
    atomic_write_text(out / RAW, json.dumps(document) + "\n")
    write_reports(out, document)


def render(out: Path) -> None:
    """Write the reports in `out` again from its raw values; nothing is measured. Raises UserError if there are none."""
    write_reports(out, read_raw(out))


def add_second_run(out: Path, other: Path) -> None:
    """Put beside the ratios in `out` those of the second run in `other`, and write the reports again.

    Raises:
        UserError: what a folder holds is nothing that `reproduce` wrote, or they have no ratio in common.
    """
    document, second = read_raw(out), read_raw(other, "--compare")
    document["second"] = second_run(document, second)
    if not document["second"]["ratios"]:
        raise UserError(f"--compare {other}: it has no ratio that {out} has, too; measure the same tables and engines")
    save(out, document)
    for _, line in repeat_lines(document, most=len(document["second"]["ratios"])):
        say(line)


# Keys of the environment in which an earlier benchmark must have been made to stand beside new ones.
SAME = ("cpu", "usable_cores", "packages")


def begun_document(plan: ReproductionPlan) -> dict[str, Any]:
    """The document to add to: a new one, or, of `plan.resume`, that of `plan.out` without what is to be made again.

    Raises:
        UserError: the earlier one is of another machine, other versions or another number of threads, or no document.
    """
    now: dict[str, Any] = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(),
        "tables": list(plan.tables),
        "engines": list(plan.engines),
        "threads": plan.threads,
        "quick": plan.quick,
        "runs": [read_run(folder) for folder in plan.runs],
        "networks": {},
        "benchmarks": [],
    }
    if not plan.resume or not (plan.out / RAW).is_file():
        return now
    old = read_raw(plan.out)
    if old["quick"] != plan.quick:
        return now
    changed = [key for key in SAME if old["environment"].get(key) != now["environment"][key]]
    changed += ["threads"] if old["threads"] != plan.threads else []
    if changed:
        raise UserError(
            f"{plan.out / RAW}: it was measured under other conditions ({', '.join(changed)}); give another --out"
        )
    kept = [b for b in old["benchmarks"] if is_kept(b, plan, old["networks"])]
    if "second" in old and all("report" not in b or b in kept for b in old["benchmarks"]):  # its ratios still hold
        now["second"] = old["second"]
    return now | {
        "tables": sorted({*old["tables"], *plan.tables}),
        "engines": list(dict.fromkeys([*old["engines"], *plan.engines])),
        "runs": now["runs"] or old["runs"],
        "networks": old["networks"],
        "benchmarks": kept,
    }


def is_kept(earlier: dict[str, Any], plan: ReproductionPlan, networks: dict[str, Any]) -> bool:
    """Whether a benchmark is of another part than the plan's, or as the plan would make it: same settings and rows."""
    planned = {part.key: part.variant for part in plan.parts()}
    variant = planned.get((earlier["table"], earlier["variant"], earlier["engine"]))
    if variant is None:
        return True
    if "report" not in earlier:
        return False
    failed = {name for name, entry in networks.items() if "failure" in entry}
    measured = {row["label"] for row in earlier["report"]["results"]}
    # A row that came to the table since is in neither.
    complete = all(network.name in measured | failed for network in networks_of(earlier["table"], variant))
    return complete and earlier["report"].get("settings") == plan.settings(variant).model_dump(mode="json")
