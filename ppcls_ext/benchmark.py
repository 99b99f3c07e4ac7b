"""How fast exported models run on this machine's CPU, in figures that can be compared.

Knows model folders and input shapes, nothing of networks or tasks. Every subject (a model on an engine) runs in a
process of its own, so that one that crashes is a row with its reason; all subjects take turns in rounds, so that a
machine whose speed drifts drifts for all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydantic

from ppcls_ext import __version__
from ppcls_ext.bench_worker import NULL
from ppcls_ext.config import Section, read_yaml
from ppcls_ext.device import usable_cores
from ppcls_ext.display import bar
from ppcls_ext.engine import FORMATS, engine_class
from ppcls_ext.errors import UserError
from ppcls_ext.machine import Watch, machine

RECIPE = "inference.yml"  # as export writes it
ANSWER_SECONDS = 600.0  # an engine that takes longer for one command hangs
DISCARDED = 2  # calls at the start of each turn: another process has just used the caches
LEAST_CALLS = 3  # in a turn; the fewer, the less a round's median is worth
PARITY_TOLERANCE = 1e-3  # of the largest value of an output; engines order float32 sums differently
RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval are then stable to a few percent of its width
CONFIDENCE = 0.95
BUSY_CORES = 0.1  # others' use of the machine that is worth a warning
NULL_CALLS = 2000


@dataclass(frozen=True)
class Subject:
    """A model on an engine, as it is to be run.

    Attributes:
        model: folder that export wrote, or any folder with inference.pdmodel and inference.pdiparams.
        engine: a name of `ppcls_ext.engine.ENGINES`.
        label: for reports; default: the folder's name (that of the run, where the folder is `inference`).
        threads: of the CPU, for each stream.
        batch: images in a call.
        size: height and width, where the model leaves them open.
        streams: predictors that run at the same time; 1 measures latency, more measure throughput.
    """

    model: Path
    engine: str = "onednn"
    label: str = ""
    threads: int = 1
    batch: int = 1
    size: tuple[int, int] | None = None
    streams: int = 1

    @property
    def name(self) -> str:
        folder = self.model.resolve()
        return self.label or (folder.parent.name if folder.name == "inference" else folder.name)


class Settings(Section):
    """How to measure."""

    rounds: int = pydantic.Field(default=20, ge=2)
    seconds: float = pydantic.Field(default=5.0, gt=0)  # of measuring for each subject, over all rounds
    iterations: int | None = pydantic.Field(None, ge=1)  # calls of each subject over all rounds, instead of seconds
    warmup: int = pydantic.Field(default=20, ge=1)  # calls before the first round
    seed: int = pydantic.Field(default=0, ge=0)  # of inputs, order and bootstrap
    pin: tuple[int, ...] = ()  # cores to bind every subject to
    spread: float = pydantic.Field(default=0.1, gt=0)  # interquartile range over median that is worth a warning


class Failed(Exception):
    """A subject cannot be measured; the message is one line."""


class Session:
    """A subject's process, seen from here. Raises Failed whenever the engine fails, hangs or crashes."""

    def __init__(self, subject: Subject, settings: Settings, verbose: bool = False) -> None:
        self.subject = subject
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in close
        ours, theirs = Pipe()
        self._pipe = ours
        package = str(Path(__file__).resolve().parent.parent)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(subject.threads),
            "GLOG_minloglevel": "2",
            "ONEDNN_VERBOSE": "1" if verbose else "0",
        }
        cores = ",".join(map(str, settings.pin))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ppcls_ext.bench_worker", str(theirs.fileno()), cores],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()

    def __call__(self, command: str, **arguments: Any) -> Any:
        try:
            self._pipe.send((command, arguments))
            if not self._pipe.poll(ANSWER_SECONDS):
                raise Failed(f"no answer within {ANSWER_SECONDS:.0f} s")
            status, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            ending = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
            raise Failed(ending) from error
        if status == "failed":
            raise Failed(value)
        return value

    def open(self, seed: int) -> dict[str, float]:
        subject = self.subject
        opened: dict[str, float] = self(
            "open",
            folder=str(subject.model),
            engine=subject.engine,
            model_format=None if subject.engine == NULL else model_format(subject),
            threads=subject.threads,
            streams=subject.streams,
            inputs=input_shapes(subject),
            seed=seed,
        )
        return opened

    def output(self) -> str:
        """What the process has written on stdout."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def model_format(subject: Subject) -> str:
    """The first format of the subject's engine that its folder holds; the last one where it holds none."""
    formats = engine_class(subject.engine).formats
    return next((f for f in formats if (subject.model / FORMATS[f][0]).is_file()), formats[-1])


def input_shapes(subject: Subject) -> list[dict[str, Any]]:
    """Shape and dtype of each input of a subject.

    Raises:
        UserError: no such folder, no size where one is needed, or one that the model does not take.
    """
    if not subject.model.is_dir():
        raise UserError(f"model {subject.model}: no such folder; give one that pplcnet export wrote")
    file = subject.model / RECIPE
    if file.is_file():
        inputs = read_yaml(file).get("inputs") or []
    elif subject.size:
        inputs = [{"shape": [-1, 3, -1, -1], "dtype": "float32"}]
    else:
        raise UserError(
            f"model {subject.model}: no {RECIPE} in it, so its input is not known; give --size HEIGHT WIDTH"
        )
    resolved = []
    for spec in inputs:
        shape = list(spec["shape"])
        wanted = [subject.batch, *shape[1:-2], *(subject.size or shape[-2:])] if len(shape) == 4 else shape
        for given, asked in zip(shape, wanted, strict=True):
            if given not in (-1, asked):
                raise UserError(
                    f"model {subject.model}: its input is fixed at {shape}, asked for {wanted}; export again"
                )
        if min(wanted) < 1:
            raise UserError(f"model {subject.model}: it takes any size; say which with --size HEIGHT WIDTH")
        resolved.append({"shape": wanted, "dtype": spec["dtype"]})
    return resolved


def difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float | None:
    """Largest difference relative to each output's largest value; of integers, the share that differs.

    None: shapes differ, as those of detectors with NMS may, so there is nothing to compare.
    """
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return None
        if a.size and np.issubdtype(a.dtype, np.floating):
            worst = max(worst, float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-12)))
        elif a.size:
            worst = max(worst, float((a != b).mean()))
    return worst


def output_warnings(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[str]:
    """What the outputs for two different inputs say against timing this model. Raises Failed if not finite."""
    warnings = []
    floats = [(a, b) for a, b in zip(one, other, strict=True) if np.issubdtype(a.dtype, np.floating)]
    if not all(np.isfinite(a).all() for a, _ in floats):
        raise Failed("it gives numbers that are not finite")
    tiny = np.finfo(np.float32).tiny
    if any(((a != 0) & (np.abs(a) < tiny)).any() for a, _ in floats):
        warnings.append("its outputs hold denormal numbers, which slow some engines several times")
    alike = [a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=0) for a, b in floats]
    if alike and all(alike):
        warnings.append("it gives the same output for two different inputs: a dead network falsifies timings")
    return warnings


@contextlib.contextmanager
def reference_outputs(settings: Settings) -> Iterator[Any]:
    """A function from a subject to the native engine's outputs for it, or None; one process for each model and size."""
    known: dict[tuple[Path, str], list[np.ndarray] | None] = {}

    def outputs(subject: Subject) -> list[np.ndarray] | None:
        native = Subject(subject.model, "native", batch=subject.batch, size=subject.size)
        key = (subject.model.resolve(), str(input_shapes(native)))
        if key not in known:
            session = Session(native, settings)
            try:
                session.open(settings.seed)
                known[key] = session("outputs", inputs=input_shapes(native), seed=settings.seed)
            except Failed:
                known[key] = None  # its own row, where there is one, says why
            finally:
                session.close()
        return known[key]

    yield outputs


def ratio_interval(samples: np.ndarray, first: np.ndarray, seed: int) -> dict[str, float]:
    """Ratio of medians with a bootstrap interval over rounds, which are resampled in pairs.

    Args:
        samples, first: milliseconds [rounds, calls]; the same rounds, calls may differ.
    """
    ratio = float(np.median(samples) / np.median(first))
    draws = np.random.default_rng(seed).integers(0, len(samples), (RESAMPLES, len(samples)))
    # A round counts with its median: calls within a round are not independent of each other.
    ratios = np.median(np.median(samples, 1)[draws], 1) / np.median(np.median(first, 1)[draws], 1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"ratio": ratio, "low": float(low), "high": float(high)}


def summary(samples: np.ndarray) -> dict[str, float]:
    """Milliseconds a call of [rounds, calls]."""
    p25, median, p75, p90, p95, p99 = np.percentile(samples, [25, 50, 75, 90, 95, 99])
    return {
        "min": float(samples.min()),
        "median": float(median),
        "mean": float(samples.mean()),
        "p90": float(p90),
        "p95": float(p95),
        "p99": float(p99),
        "std": float(samples.std()),
        "spread": float((p75 - p25) / median),
    }


def versions(engines: Sequence[str]) -> dict[str, str | None]:
    """Versions of this package, Python, and whatever the engines run on."""
    found: dict[str, str | None] = {"pplcnet": __version__, "python": sys.version.split()[0]}
    for package in ["numpy", *sorted({engine_class(e).package for e in engines})]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def harness_overhead_us(settings: Settings) -> float:
    """Microseconds that timing itself adds to a call: the median of an engine that does nothing."""
    session = Session(Subject(Path(), NULL), settings)
    try:
        session("open", folder="", engine=NULL, model_format=None, threads=1, streams=1, inputs=[], seed=0)
        return float(np.median(session("turn", calls=NULL_CALLS)["ns"]) / 1e3)
    finally:
        session.close()


class Run:
    """A subject under way: its process, its turns, and at the end its row of the report."""

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.subject, self.settings = subject, settings
        self.session: Session | None = None
        self.opened: dict[str, float] = {}
        self.parity: float | None = None
        self.calls = 0
        self.turns: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.failure: str | None = None

    def prepare(self, reference: list[np.ndarray] | None) -> None:
        """Open, compare with the native engine, warm up, and find how many calls a turn has."""
        settings, shapes = self.settings, input_shapes(self.subject)
        self.session = Session(self.subject, settings)
        self.opened = self.session.open(settings.seed)
        found = self.session("outputs", inputs=shapes, seed=settings.seed)
        self.warnings += output_warnings(found, self.session("outputs", inputs=shapes, seed=settings.seed + 1))
        if reference is None:
            self.warnings.append("not compared: the native engine does not run this model")
        else:
            self.parity = difference(found, reference)
            if self.parity is None:
                self.warnings.append("not compared with the native engine: the shape of its output depends on the data")
            elif self.parity > PARITY_TOLERANCE:
                raise Failed(f"its output differs from the native engine's by {self.parity:.1e} of the largest value")
        warm = self.session("turn", calls=settings.warmup)
        if settings.iterations:
            self.calls = -(-settings.iterations // settings.rounds)
        else:
            each = settings.seconds / settings.rounds / (warm["seconds"] / settings.warmup)
            self.calls = max(LEAST_CALLS, round(each))

    def turn(self) -> float:
        """One turn; gives the processor time it took, in seconds."""
        assert self.session is not None
        self.turns.append(self.session("turn", calls=self.calls, discarded=DISCARDED))
        return float(self.turns[-1]["cpu_seconds"])

    def fail(self, reason: str) -> None:
        self.failure = reason
        self.close()

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    @property
    def samples(self) -> np.ndarray:
        """Milliseconds [rounds, calls]."""
        return np.array([turn["ns"] for turn in self.turns], float) / 1e6

    def row(self, first: Run) -> dict[str, Any]:
        subject = self.subject
        row: dict[str, Any] = {
            "label": subject.name,
            "model": str(subject.model),
            "engine": subject.engine,
            "threads": subject.threads,
            "batch": subject.batch,
            "size": list(subject.size) if subject.size else None,
            "streams": subject.streams,
            "failure": self.failure,
            "warnings": self.warnings,
        }
        if self.failure is not None:
            return row
        samples, milliseconds = self.samples, summary(self.samples)
        if milliseconds["spread"] > self.settings.spread:
            self.warnings.append(
                f"spread {milliseconds['spread']:.0%} (interquartile range over median) is above "
                f"{self.settings.spread:.0%}: repeat on a quieter machine"
            )
        per_round = [{"median": float(np.median(r)), "min": float(r.min()), "max": float(r.max())} for r in samples]
        images = subject.batch * samples.size
        return row | {
            "format": model_format(subject),
            "n": int(samples.size),
            "ms": milliseconds,
            "throughput_per_s": images / sum(turn["seconds"] for turn in self.turns),
            "ratio_to_first": (
                ratio_interval(samples, first.samples, self.settings.seed) if first.failure is None else None
            ),
            "parity": self.parity,
            **self.opened,
            "rss_after_mb": self.turns[-1]["rss_mb"],
            "rounds": per_round,
        }


def check_subjects(subjects: Sequence[Subject], settings: Settings) -> None:
    """Raise UserError for what is wrong before anything runs."""
    for subject in subjects:
        engine_class(subject.engine)
        input_shapes(subject)
    available = os.sched_getaffinity(0)
    for core in settings.pin:
        if core not in available:
            raise UserError(f"--pin {core}: this process may not use that core; usable: {sorted(available)}")


def run_benchmark(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """Measure `subjects`, interleaved; ratios are to the first. Gives a JSON-able report.

    Latency is that of a call from NumPy arrays in to NumPy arrays out.
    Raises:
        UserError: a model or engine that is not there. A subject that fails later is a row with its reason.
    """
    check_subjects(subjects, settings)
    runs = [Run(subject, settings) for subject in subjects]
    order = np.random.default_rng(settings.seed)
    warnings: list[str] = []
    most = max(s.threads * s.streams for s in subjects)
    cores = len(settings.pin) or usable_cores()
    if most > cores:
        warnings.append(
            f"{most} threads on {cores} usable cores (affinity, cgroup quota or --pin): they wait for each other"
        )
    overhead = harness_overhead_us(settings)
    try:
        with reference_outputs(settings) as outputs_of, bar(len(runs), "prepare") as progress:
            for run in runs:
                try:
                    run.prepare(outputs_of(run.subject))
                except Failed as failed:
                    run.fail(str(failed))
                progress.advance(1, run.subject.name)
        ours, process = 0.0, psutil.Process()
        before = sum(process.cpu_times()[:2])
        watch = Watch()
        with bar(settings.rounds, "measure") as progress:
            for _ in range(settings.rounds):
                # In another order each round: who comes after whom matters to caches and clocks.
                for k in order.permutation(len(runs)):
                    run = runs[k]
                    if run.failure is None:
                        try:
                            ours += run.turn()
                        except Failed as failed:
                            run.fail(str(failed))
                progress.advance()
        busy = watch.interval(ours + sum(process.cpu_times()[:2]) - before)
    finally:
        for run in runs:
            run.close()
    if busy.others > BUSY_CORES:
        warnings.append(f"other processes used {busy.others:.1f} cores meanwhile: repeat on a quieter machine")
    if busy.stolen > BUSY_CORES:
        warnings.append(f"the hypervisor took {busy.stolen:.1f} cores meanwhile: repeat on a quieter machine")
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions([s.engine for s in subjects]),
        "settings": settings.model_dump(mode="json"),
        "harness_overhead_us": overhead,
        "busy": asdict(busy),
        "warnings": warnings,
        "results": [run.row(runs[0]) for run in runs],
    }


def read_report(path: Path) -> dict[str, Any]:
    """Read what `pplcnet benchmark --json` wrote. Raises UserError if it is something else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"benchmark report {path}: cannot be read ({error})") from error
    if not isinstance(report, dict) or not {"results", "machine", "versions"} <= set(report):
        raise UserError(f"benchmark report {path}: not a report of pplcnet benchmark --json")
    return report


IDENTITY = ("label", "engine", "threads", "batch", "size", "streams")  # of a row, over reports


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """What changed between two reports: lines about conditions, and rows.

    A row is label, engine, threads, old and new median (ms), new over old, old and new ratio to the first subject,
    and a word: `faster` or `slower` where the bootstrap intervals of the ratios do not meet, else `same`;
    `new` or `gone` where a report has no such row.
    """
    changes = []
    for part in ("machine", "versions", "settings"):
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
