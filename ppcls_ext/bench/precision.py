"""Smaller numbers for an export: tried here, kept only where they are faster on this machine and lose little.

`Export.int8` and `Export.bf16` ask for it. What is kept is said in `inference.yml` (`precision`), with the figures.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.benchmark import ratio_interval, run_benchmark, versions
from ppcls_ext.bench.session import Subject, model_format
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.config import Config
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.machine import machine
from ppcls_ext.deploy.export import save_recipe
from ppcls_ext.deploy.quantize import calibration_inputs, evaluate_engine, quantizer, write_int8
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, FORMATS
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.process import EngineFailed
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task

# Enough rounds for an interval a few percent wide on a machine that does other things too.
SETTINGS = Settings(rounds=40, processes=4, seconds=2.0, iterations=None)
POINTS = 100.0  # points in a metric of 1

# Instructions of the processor that such numbers want; without any of them an engine computes otherwise, and slower.
WANTED_FLAGS = {"int8": ("avx512_vnni", "avx_vnni", "amx_int8"), "bf16": ("avx512_bf16", "amx_bf16")}


@dataclass(frozen=True)
class Speed:
    """How many times as long as the fastest float32 engine a candidate takes.

    Attributes:
        ratio, low, high: the mean over rounds and its 95 % interval.
        reference: that float32 engine.
        n: timed calls of the candidate.
    """

    ratio: float
    low: float
    high: float
    reference: str
    n: int

    @property
    def faster(self) -> bool:
        """Whether the whole interval says so."""
        return self.high < 1


@dataclass(frozen=True)
class Verdict:
    """What was measured of an engine with smaller numbers, and what follows.

    Attributes:
        reason: why it is refused, in a line; empty: it is accepted.
        exact, reduced: the primary metric with float32 and with smaller numbers, as fractions; None: not measured.
    """

    engine: str
    precision: str
    reason: str
    speed: Speed | None = None
    exact: float | None = None
    reduced: float | None = None

    @property
    def loss(self) -> float | None:
        """What is lost, in points; below zero where smaller numbers happen to do better."""
        return None if self.exact is None or self.reduced is None else POINTS * (self.exact - self.reduced)


def wanted(task: Task, formats: Sequence[str]) -> list[str]:
    """The precisions that the config asks for, once it is sure that they can be tried.

    Raises:
        UserError: a package, a format or a setting stands against it.
    """
    section = task.export
    asked = [name for name in ("int8", "bf16") if getattr(section, name)]
    if not asked:
        return []
    if section.batch not in (-1, 1):
        raise UserError(
            f"Export.{asked[0]} is evaluated on one image at a time: set Export.batch to -1 or 1, not {section.batch}"
        )
    if section.input != "float32":
        raise UserError(f"Export.{asked[0]} is evaluated on normalised images: set Export.input to float32")
    task.exported(ExportedModel(lambda inputs: []))  # the task raises here what else stands against it
    if "int8" in asked:
        if "onnx" not in formats:
            raise UserError("Export.int8 is made from the ONNX format: add --formats onnx (or all)")
        quantizer()
    return asked


def smaller_numbers(config: Config, folder: Path, asked: Sequence[str]) -> list[Verdict]:
    """Try the precisions `asked` on an exported folder, and note in its recipe which engines passed.

    Every outcome is a line on stderr. An int8 file that did not pass is removed.
    """
    task = make_task(config)
    kept: list[Verdict] = []
    try:
        verdicts = judge(task, folder, asked)
        kept = [verdict for verdict in verdicts if not verdict.reason]
    finally:
        if not any(verdict.precision == "int8" for verdict in kept):
            shutil.rmtree((folder / FORMATS["int8"][0]).parent, ignore_errors=True)
    if kept:
        recipe = dict(read_exported(folder).recipe)
        if any(verdict.precision == "int8" for verdict in kept):
            recipe["formats"] = {**recipe["formats"], "int8": FORMATS["int8"][0]}
        recipe["precision"] = {verdict.engine: _figures(task, verdict) for verdict in kept}
        save_recipe(folder, recipe)
    for verdict in verdicts:
        say(line(verdict, task.primary))
    return verdicts


def judge(task: Task, folder: Path, asked: Sequence[str]) -> list[Verdict]:
    """Measure every installed engine with one of the precisions `asked`: its speed, and accuracy if it is faster."""
    verdicts = []
    if "int8" in asked:
        try:
            write_int8(folder, calibration_inputs(task, folder, task.export.calibration))
        except CheckFailed as failed:
            verdicts.append(Verdict("openvino-int8", "int8", str(failed)))
    precisions = {name: engine_class(name).precision for name in _runnable(folder)}
    reduced = {name: precision for name, precision in precisions.items() if precision in asked}
    found = speeds(task, folder, list(reduced)) if reduced else {}
    exact: float | None = None
    for engine, precision in reduced.items():
        speed = found[engine]
        if isinstance(speed, str):
            verdicts.append(Verdict(engine, precision, f"it does not run this network: {speed}"))
            continue
        if not speed.faster:
            verdicts.append(Verdict(engine, precision, _not_faster(speed, precision), speed))
            continue
        try:
            if exact is None:
                exact = _primary(task, folder, speed.reference)
            verdicts.append(_by_loss(task, engine, precision, speed, exact, _primary(task, folder, engine)))
        except EngineFailed as failed:
            verdicts.append(Verdict(engine, precision, f"it cannot be evaluated: {failed}", speed))
    return verdicts


def speeds(task: Task, folder: Path, engines: Sequence[str]) -> dict[str, Speed | str]:
    """The speed of each of `engines` against the fastest float32 engine; of one that fails, why.

    All take turns in one benchmark, on one thread and one image.
    Raises:
        CheckFailed: no float32 engine runs the folder.
    """
    exact = [name for name in _runnable(folder) if engine_class(name).precision == FLOAT]
    size = None
    if -1 in read_exported(folder).inputs[0].shape[-2:]:
        size = (task.global_section.image_shape[1], task.global_section.image_shape[2])
    report = run_benchmark([Subject(folder, engine, size=size) for engine in [*exact, *engines]], SETTINGS)
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    rows = {row["engine"]: row for row in report["results"]}
    running = [name for name in exact if rows[name]["failure"] is None]
    if not running:
        raise CheckFailed(f"export {folder}: no float32 engine runs it: {rows[exact[0]]['failure']}")
    return {name: _slowest_lead(rows[name], [rows[one] for one in running]) for name in engines}


def _slowest_lead(row: Mapping[str, Any], exact: Sequence[Mapping[str, Any]]) -> Speed | str:
    """The speed of a row against whichever of the float32 rows it has the smallest lead over, or why it failed."""
    if row["failure"] is not None:
        return str(row["failure"])
    return max((_speed(row, one) for one in exact), key=lambda speed: speed.ratio)


def _speed(row: Mapping[str, Any], reference: Mapping[str, Any]) -> Speed:
    ours, theirs = (np.array([[turn["median"]] for turn in each["rounds"]]) for each in (row, reference))
    interval = ratio_interval(ours, theirs, SETTINGS.seed, SETTINGS.shares())
    return Speed(interval["ratio"], interval["low"], interval["high"], reference["engine"], row["n"])


def _runnable(folder: Path) -> list[str]:
    """Engines that are installed and find a format of theirs in the folder."""
    kinds = {name: engine_class(name) for name in ENGINES}
    return [
        name
        for name, kind in kinds.items()
        if kind.installed() and any((folder / FORMATS[form][0]).is_file() for form in kind.formats)
    ]


def _primary(task: Task, folder: Path, engine: str) -> float:
    return evaluate_engine(task, folder, engine, model_format(Subject(folder, engine)))[task.primary]


def _not_faster(speed: Speed, precision: str) -> str:
    reason = f"not faster than {speed.reference} on this machine ({_times(speed)})"
    flags = WANTED_FLAGS[precision]
    if set(flags) & set(machine()["flags"]):
        return reason
    return f"{reason}; the processor has none of {', '.join(flags)}"


def _by_loss(task: Task, engine: str, precision: str, speed: Speed, exact: float, reduced: float) -> Verdict:
    limit = task.export.loss
    within = POINTS * (exact - reduced) <= limit  # this is false too where one of them is NaN
    reason = ""
    if not within:
        fall = f"{POINTS * exact:.2f} to {POINTS * reduced:.2f}"
        reason = f"{task.primary} falls from {fall}, more than the {limit:g} points of Export.loss"
    return Verdict(engine, precision, reason, speed, exact, reduced)


def _times(speed: Speed) -> str:
    return f"{speed.ratio:.2f} of its time, {speed.low:.2f} to {speed.high:.2f}"


def line(verdict: Verdict, metric: str) -> str:
    """The line that tells a verdict to the user."""
    if verdict.reason or verdict.speed is None or verdict.exact is None or verdict.reduced is None:
        return f"{verdict.precision} on {verdict.engine}: not kept: {verdict.reason}"
    return (
        f"{verdict.precision} on {verdict.engine}: kept: faster than {verdict.speed.reference} on this machine "
        f"({_times(verdict.speed)}), {metric} {POINTS * verdict.reduced:.2f} instead of {POINTS * verdict.exact:.2f}"
    )


def _figures(task: Task, verdict: Verdict) -> dict[str, Any]:
    """The figures that `inference.yml` keeps of an engine that passed."""
    speed, loss = verdict.speed, verdict.loss
    assert speed is not None
    assert loss is not None
    here = machine()
    return {
        "precision": verdict.precision,
        "ratio": round(speed.ratio, 4),
        "interval": [round(speed.low, 4), round(speed.high, 4)],
        "to": speed.reference,
        "calls": speed.n,
        "metric": task.primary,
        "float32": verdict.exact,
        "reduced": verdict.reduced,
        "loss_points": round(loss, 4),
        "images": len(task.eval_loader().dataset),
        "calibration": task.export.calibration if verdict.precision == "int8" else None,
        "cpu": here["cpu"],
        "flags": here["flags"],
        "versions": versions([verdict.engine, speed.reference]),
    }
