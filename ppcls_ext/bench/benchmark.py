"""How fast exported models run on this machine's CPU, in figures that can be compared.

Knows model folders and input shapes, nothing of networks or tasks. Every subject (a model on an engine) runs in
processes of its own, so that one that crashes is a row with its reason; all subjects take turns in rounds, so that a
machine whose speed drifts drifts for all alike. After some rounds every subject gets a fresh process: where weights and
buffers lie in memory is drawn once for a process, and makes it faster or slower for life.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.session import Session, Subject, input_shapes, model_format
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.turns import Turns, take_all_turns
from ppcls_ext.bench.worker import NULL
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.machine import machine
from ppcls_ext.core.system import usable_cpus
from ppcls_ext.core.text import command_line
from ppcls_ext.core.version import __version__
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.engines.base import FLOAT
from ppcls_ext.runtime.process import EngineFailed
from ppcls_ext.runtime.timing import ratio_interval

# Outputs may differ by this share of their largest value, since engines add up float32 in different orders.
ENGINE_TOLERANCE = 1e-3
BUSY_CORES = 0.1  # a report warns where other processes used more cores than this
NULL_CALLS = 2000


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
    """What the outputs for two different inputs say against timing this model. Raises EngineFailed if not finite."""
    warnings = []
    floats = [(a, b) for a, b in zip(one, other, strict=True) if np.issubdtype(a.dtype, np.floating)]
    if not all(np.isfinite(a).all() for a, _ in floats):
        raise EngineFailed("it gives numbers that are not finite")
    tiny = np.finfo(np.float32).tiny
    if any(((a != 0) & (np.abs(a) < tiny)).any() for a, _ in floats):
        warnings.append("its outputs hold denormal numbers, which slow some engines several times")
    alike = [a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=0) for a, b in floats]
    if alike and all(alike):
        warnings.append("it gives the same output for two different inputs: a dead network falsifies timings")
    return warnings


class NativeOutputs:
    """The native engine's outputs for a subject, or None where it does not run; one process for each model and size."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[tuple[Path, str], list[np.ndarray] | None] = {}

    def __call__(self, subject: Subject) -> list[np.ndarray] | None:
        """The outputs for the inputs that every engine of the subject gets."""
        shapes = input_shapes(subject)
        key = (subject.model.resolve(), str(shapes))
        if key not in self._known:
            session = Session(
                Subject(subject.model, "native", batch=subject.batch, size=subject.size), self._settings.pin
            )
            try:
                session.open(self._settings.seed)
                self._known[key] = session("outputs", inputs=shapes, seed=self._settings.seed)
            except EngineFailed:
                self._known[key] = None  # the row of this candidate, where there is one, says why
            finally:
                session.close()
        return self._known[key]


def summary(samples: np.ndarray) -> dict[str, float]:
    """Statistics of the milliseconds that calls took, from samples [rounds, calls]."""
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
    session = Session(Subject(Path(), NULL), settings.pin)
    try:
        session("start", folder="", engine=NULL, model_format=None, threads=1, streams=1, inputs=[], seed=0)
        return float(np.median(session("turn", calls=NULL_CALLS)["ns"]) / 1e3)
    finally:
        session.close()


class Measurement(Turns):
    """A subject under way: its process, its turns, and at the end its row of the report."""

    def __init__(self, subject: Subject, settings: Settings) -> None:
        super().__init__(subject.name, settings)
        self.subject = subject
        self.opened: list[dict[str, float]] = []  # what opening the model took, for each process
        self.parity: float | None = None
        self.warnings: list[str] = []

    def start(self, expected: list[np.ndarray] | None) -> None:
        """Open a process, compare its output with the native engine's, and warm it up.

        The first process also says how many calls a turn has.
        """
        settings, shapes = self.settings, input_shapes(self.subject)
        session = self.session = Session(self.subject, settings.pin)
        self.opened.append(session.open(settings.seed))
        found = session("outputs", inputs=shapes, seed=settings.seed)
        first = len(self.opened) == 1
        if first:
            self.warnings += output_warnings(found, session("outputs", inputs=shapes, seed=settings.seed + 1))
        if expected is not None:
            self.parity = difference(found, expected)
            exact = engine_class(self.subject.engine).precision == FLOAT
            if exact and self.parity is not None and self.parity > ENGINE_TOLERANCE:
                raise EngineFailed(
                    f"its output differs from the native engine's by {self.parity:.1e} of the largest value"
                )
        if first and expected is None:
            self.warnings.append("not compared: the native engine does not run this model")
        elif first and self.parity is None:
            self.warnings.append("not compared with the native engine: the shape of its output depends on the data")
        warm = session("turn", calls=settings.warmup)
        self.plan(warm["seconds"] / settings.warmup)

    def row(self, first: Measurement) -> dict[str, Any]:
        """The subject's row of the report, JSON-able; ratios are to `first`."""
        subject = self.subject
        row: dict[str, Any] = {
            "label": subject.name,
            "model": str(subject.model),
            "engine": subject.engine_name,
            "threads": subject.threads,
            "batch": subject.batch,
            "size": list(subject.size) if subject.size else None,
            "streams": subject.streams,
            "failure": self.failure,
            "warnings": self.warnings,
        }
        if self.failure is not None:
            return row
        samples, milliseconds, shares = self.samples, summary(self.samples), self.settings.shares()
        if milliseconds["spread"] > self.settings.spread:
            self.warnings.append(
                f"spread {milliseconds['spread']:.0%} (interquartile range over median) is above "
                f"{self.settings.spread:.0%}: repeat on a quieter machine"
            )
        ratio = None
        if first.failure is None:
            ratio = ratio_interval(samples, first.samples, self.settings.seed, shares)
        process = np.repeat(np.arange(len(shares)), shares)
        return row | {
            "format": model_format(subject),
            "n": int(samples.size),
            "ms": milliseconds,
            "throughput_per_s": subject.batch * samples.size / sum(turn["seconds"] for turn in self.turns),
            "ratio_to_first": ratio,
            "parity": self.parity,
            **{key: float(np.median([opened[key] for opened in self.opened])) for key in self.opened[0]},
            "rss_after_mb": self.turns[-1]["rss_mb"],
            "rounds": [
                {"process": int(k), "median": float(np.median(r)), "min": float(r.min()), "max": float(r.max())}
                for k, r in zip(process, samples, strict=True)
            ],
        }


def check_subjects(subjects: Sequence[Subject], settings: Settings) -> None:
    """Raise UserError for what is wrong before anything runs."""
    for subject in subjects:
        engine_class(subject.engine)
        input_shapes(subject)
    available = usable_cpus()
    for core in settings.pin:
        if core not in available:
            raise UserError(f"--pin {core}: this process may not use that core; usable: {available}")


def run_benchmark(subjects: Sequence[Subject], settings: Settings, with_native: bool = True) -> dict[str, Any]:
    """Measure `subjects`, interleaved; ratios are to the first. Gives a JSON-able report.

    Latency is that of a call from NumPy arrays in to NumPy arrays out.
    Args:
        with_native: compare outputs with those of the native engine, which then opens every model too.
    Raises:
        UserError: a model or engine that is not there. A subject that fails later is a row with its reason.
    """
    check_subjects(subjects, settings)
    measurements = [Measurement(subject, settings) for subject in subjects]
    warnings: list[str] = []
    most = max(s.threads * s.streams for s in subjects)
    cores = len(settings.pin) or usable_cores()
    if most > cores:
        warnings.append(
            f"{most} threads on {cores} usable cores (affinity, cgroup quota or --pin): they wait for each other"
        )
    native_outputs: Callable[[Subject], list[np.ndarray] | None] = NativeOutputs(settings)
    if not with_native:
        native_outputs = lambda subject: None  # noqa: E731
    overhead = harness_overhead_us(settings)
    busy = take_all_turns(measurements, settings, lambda each: each.start(native_outputs(each.subject)))
    others, stolen = (float(np.mean([getattr(b, kind) for b in busy])) for kind in ("others", "stolen"))
    if others > BUSY_CORES:
        warnings.append(f"other processes used {others:.1f} cores meanwhile: repeat on a quieter machine")
    if stolen > BUSY_CORES:
        warnings.append(f"the hypervisor took {stolen:.1f} cores meanwhile: repeat on a quieter machine")
    return {
        "command": command_line(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions([s.engine for s in subjects]),
        "settings": settings.model_dump(mode="json"),
        "harness_overhead_us": overhead,
        "busy": {"others": others, "stolen": stolen},
        "warnings": warnings,
        "results": [measurement.row(measurements[0]) for measurement in measurements],
    }
