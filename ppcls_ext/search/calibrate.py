"""Measuring networks of a space on an engine, and fitting a latency model to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.benchmark import run_benchmark, versions
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.cpu import cpu_flags, cpu_model, cpuid
from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.files import regular_target
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.machine import machine
from ppcls_ext.core.text import command_line
from ppcls_ext.deploy.untrained import build, formats_for, network_of_spec
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.timing import undisturbed_ratio
from ppcls_ext.search.latency import LatencyModel, Target, accuracy, fit, shortfalls
from ppcls_ext.search.measurements import (
    Calibration,
    Measured,
    Use,
    paper_networks,
    probes,
    read_calibration,
    spread_networks,
)
from ppcls_ext.search.space import Space

GROUP = 9  # networks that take turns together, beside the anchor: their processes must fit into memory
FITTED, UNSEEN = 50, 50  # networks to fit and to judge; of those to fit, some are the paper's
UNDISTURBED = 0.2  # of the rounds; see docs/search.md for what other ways to compare have given
PROBE_WEIGHT = 0.25  # a probe counts less in the fit, since users ask for whole networks
ANCHOR = LCNetSpec(scale=0.5).network()  # takes turns with every group, so that all groups are of one machine's state

CALIBRATIONS, LOCK = "folder of calibrations", "calibrate.lock"

Benchmark = Callable[[Sequence[Subject], Settings], dict[str, Any]]


@dataclass(frozen=True)
class CalibrationPlan:
    """What to measure, and where.

    Attributes:
        file: that the calibration is kept in, after every group.
        work: folder that networks are exported to, and found in again.
        quick: too few networks and calls to rely on, but all of the way.
    """

    space: Space
    engine: str
    threads: int
    file: Path
    work: Path
    quick: bool = False

    @property
    def settings(self) -> Settings:
        """How each group is measured."""
        if self.quick:
            return Settings(rounds=4, processes=1, seconds=0.1, warmup=2, iterations=None)
        # One process: what another takes to start is better spent on rounds, some of which are undisturbed.
        return Settings(rounds=60, processes=1, seconds=3.4, warmup=10, iterations=None)

    def networks(self) -> list[tuple[NetworkSpec, Use]]:
        """Every network and what it is for; a random order within each use, so that drifts hit all sizes alike."""
        fitted, unseen = (6, 4) if self.quick else (FITTED, UNSEEN)
        space = self.space
        paper = paper_networks(space)
        whole = [*paper, *spread_networks(space, max(2, fitted - len(paper)), 0, paper)]
        others = spread_networks(space, unseen, 1, whole)
        tried = probes(space)[:: 6 if self.quick else 1]
        found: dict[NetworkSpec, Use] = {ANCHOR: "network"}
        for specs, use in ((whole, "network"), (others, "unseen"), ([p.spec for p in tried], "probe")):
            for spec in specs:
                found.setdefault(spec, use)  # type: ignore[arg-type]
        rest = list(found.items())[1:]
        order = np.random.default_rng(0).permutation(len(rest))
        return [(ANCHOR, "network"), *(rest[k] for k in order)]


def target_of(engine: str, threads: int) -> Target:
    """This machine with an engine. Raises UserError for an engine that is unknown or not installed."""
    engine_class(engine).require()
    return Target((cpu_model(), *cpu_flags()), engine, threads, versions([engine]), cpuid())


def run_lean(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """`run_benchmark` without comparing outputs with the native engine's: the weights are random."""
    return run_benchmark(subjects, settings, with_native=False)


def calibrate(plan: CalibrationPlan, benchmark: Benchmark = run_lean) -> Calibration:
    """Measure what is not in the file yet, fit, and write the file; gives the calibration.

    Raises:
        UserError: see `target_of`; a file of another machine, engine or space, or of a quick calibration for a full
            one and the other way round; another process that calibrates into the same folder, or with the same folder
            of networks.
    """
    regular_target(plan.file)
    # Of the first, so that what one calibration measures is not what another one slows; of the second for its files.
    with FolderLock(plan.file.parent, CALIBRATIONS, LOCK), FolderLock(plan.work, "folder of networks", LOCK):
        return _calibrate(plan, benchmark)


def _calibrate(plan: CalibrationPlan, benchmark: Benchmark) -> Calibration:
    found = _begin(plan)
    done = {one.arch for one in found.measured}
    left = [(spec, use) for spec, use in plan.networks()[1:] if spec.text not in done]
    groups = [left[k : k + GROUP] for k in range(0, len(left), GROUP)]
    with bar(len(left), "calibrate") as progress:
        for group in groups:
            found = _with_group(found, plan, group, benchmark)
            found.save(plan.file)
            progress.advance(len(group))
    found = fitted(found)
    found.save(plan.file)
    return found


def check_accuracy(found: Calibration, file: Path) -> None:
    """Raise CheckFailed where a model is not accurate enough on networks that it has not seen.

    Args:
        file: that it was written to.
    """
    assert found.accuracy is not None
    missed = shortfalls(found.accuracy["model"])
    if missed:
        raise CheckFailed(
            f"the latency model of {found.target.engine} is not accurate enough: {'; '.join(missed)}. {file} has it "
            "all the same; delete it and calibrate again on a quieter machine"
        )


def _begin(plan: CalibrationPlan) -> Calibration:
    """What an earlier run left, or an empty calibration."""
    target = target_of(plan.engine, plan.threads)
    if plan.file.is_file():
        found = read_calibration(plan.file, "give another --calibration, or delete it")
        differences = found.target.differences(target)
        if found.space != plan.space.name:
            differences.append(f"space: {found.space}, not {plan.space.name}")
        if found.quick != plan.quick:
            differences.append("kind: quick, not full" if found.quick else "kind: full, not --quick")
        if not differences:
            say(f"{plan.file}: goes on, {len(found.measured)} networks are measured")
            return found
        raise UserError(
            f"calibration {plan.file} is of another {'; '.join(differences)}; give another --calibration, or delete it"
        )
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Calibration(target, plan.space.name, created, command_line(), machine(), quick=plan.quick)


def _with_group(
    found: Calibration, plan: CalibrationPlan, group: Sequence[tuple[NetworkSpec, Use]], benchmark: Benchmark
) -> Calibration:
    """The calibration with some more networks, which took turns with the anchor."""
    formats = formats_for([plan.engine], "--engine")
    specs = [ANCHOR, *(spec for spec, _ in group)]
    for spec in specs:
        build(network_of_spec(spec), plan.work, formats)
    subjects = [
        Subject(plan.work / network_of_spec(spec).name, plan.engine, spec.name, threads=plan.threads) for spec in specs
    ]
    report = benchmark(subjects, plan.settings)
    for warning in report["warnings"]:  # a model that is fitted to a busy machine is not accepted
        say(f"warning: {warning}")
    first, *rows = report["results"]
    if first["failure"] is not None:
        raise UserError(f"engine {plan.engine} does not run PPLCNet_x0_5 here: {first['failure']}")
    anchor = first["ms"]["median"]
    more = [_measured(spec, use, row, first) for (spec, use), row in zip(group, rows, strict=True)]
    anchors, measured = (*found.anchor_ms, anchor), (*found.measured, *more)
    # A model that is there is fitted to fewer networks than the file will have.
    return replace(found, anchor_ms=anchors, measured=measured, model=None, accuracy=None)


def _measured(spec: NetworkSpec, use: Use, row: dict[str, Any], first: dict[str, Any]) -> Measured:
    """A network as a row of the benchmark has found it, beside the anchor's."""
    if row["failure"] is not None:
        return Measured(spec.text, use, failure=row["failure"])
    own, anchor = (np.array([turn["min"] for turn in one["rounds"]]) for one in (row, first))
    found = undisturbed_ratio(own, anchor, UNDISTURBED, seed=0)
    return Measured(spec.text, use, found["ratio"], found["low"], found["high"])


def can_be_fitted(found: Calibration) -> bool:
    """Whether enough networks of each use were measured for a model."""
    return all(len(found.latencies(use)) >= 2 for use in ("probe", "network", "unseen"))


def fitted(found: Calibration) -> Calibration:
    """The calibration with its model, and how accurate that and simpler ones are on networks that none has seen."""
    probed, whole = found.latencies("probe"), {ANCHOR: found.unit, **found.latencies("network")}
    unseen = found.latencies("unseen")
    if not can_be_fitted(found):
        raise UserError("too few networks run on this engine to fit a latency model; see the failures in the file")
    model = fit_parts(found.target, [(probed, PROBE_WEIGHT), (whole, 1.0)])
    blocks = fit_parts(found.target, [(probed, 1.0)])
    measured = list(unseen.values())
    judged = {
        "model": accuracy([model.predict(spec) for spec in unseen], measured),
        "blocks": accuracy([blocks.predict(spec) for spec in unseen], measured),
    }
    for what in ("flops", "params"):
        judged[what] = accuracy(_line(what, whole, unseen), measured)
    return replace(found, model=model, accuracy=judged)


def fit_parts(target: Target, parts: Sequence[tuple[Mapping[NetworkSpec, float], float]]) -> LatencyModel:
    """`fit` to the milliseconds of networks in parts, each with the weight of its errors."""
    rows = [(spec, ms, weight) for latencies, weight in parts for spec, ms in latencies.items()]
    specs, ms, weights = zip(*rows, strict=True)
    return fit(target, specs, ms, weights)


def _line(what: str, known: Mapping[NetworkSpec, float], unseen: Iterable[NetworkSpec]) -> list[float]:
    """Latencies by one count alone (`flops` or `params`), on the line of the least relative errors."""
    x, y = np.array([getattr(spec.count(), what) for spec in known], float), np.array(list(known.values()))
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    return [float(start + slope * getattr(spec.count(), what)) for spec in unseen]
