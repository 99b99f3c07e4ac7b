"""Does a model that runs for long take ever more memory, open files or threads, at one input size and at many?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ppcls_ext.bench.session import Session, Subject, declared_inputs, input_shapes, sides_of
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.display import bar
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import LARGEST_STRIDE

READINGS = 40  # how often a phase is looked at
# Paddle frees the memory of some dozens of calls at once: there must be many of these in each quarter.
LEAST_RUNS = 1000
# Memory may grow by so much in the second half of a phase, since allocators keep some more for a while.
ALLOWED_MB = 8.0
ALLOWED_SHARE = 0.02
# What is read of a process, as its worker names it: what messages call it, and the unit.
HELD = {"rss_mb": ("memory", "MB"), "files": ("open files", "files"), "threads": ("threads", "threads")}
# The varying phase runs so many different shapes: more than the engines' caches hold (ONEDNN_CACHED_SHAPES).
SHAPES = 50


def grows(readings_mb: list[float]) -> bool:
    """Whether resident memory keeps growing: from the second quarter of the readings to the last by more than is
    allowed, and still from the third to the last. Of each quarter the least counts, since memory goes up and down.
    """
    quarter = len(readings_mb) // 4
    second, third, last = (min(readings_mb[part * quarter : (part + 1) * quarter]) for part in (1, 2, 3))
    allowed = max(ALLOWED_MB, ALLOWED_SHARE * second)
    return last - second > allowed and last - third > allowed / 4


def more_held(counts: list[float]) -> bool:
    """Whether there are always more open files, or threads, in the last quarter of the readings than ever in the first
    half.
    """
    return min(counts[int(len(counts) * 0.75) :]) > max(counts[: len(counts) // 2])


def growing(readings: Sequence[Mapping[str, float]]) -> list[str]:
    """What of `HELD` keeps growing over readings of a process, in order."""
    found = []
    for name, (what, _) in HELD.items():
        values = [one[name] for one in readings]
        if grows(values) if name == "rss_mb" else more_held(values):
            found.append(what)
    return found


def varying_shapes(subject: Subject, seed: int) -> list[list[dict[str, Any]]]:
    """Input shapes of many sizes around the subject's own: its height and width where they are free, its batch where
    that is free. Empty where nothing is.
    """
    spec = declared_inputs(subject)[0]
    shape = spec["shape"]
    if len(shape) == 4 and list(shape[sides_of(spec)]) == [-1, -1] and subject.size:
        heights, widths = (_sides(n) for n in subject.size)
        sizes = list(itertools.product(heights, widths))
        picked = np.random.default_rng(seed).permutation(len(sizes))[:SHAPES]
        return [input_shapes(replace(subject, size=sizes[k])) for k in picked]
    if shape[0] == -1:
        return [input_shapes(replace(subject, batch=1 + k)) for k in range(SHAPES)]
    return []


def _sides(side: int) -> range:
    """Sides from half of one to a fifth more, in steps of the networks' stride."""
    last = max(2 * LARGEST_STRIDE, round(1.2 * side / LARGEST_STRIDE) * LARGEST_STRIDE)
    return range(max(1, side // (2 * LARGEST_STRIDE)) * LARGEST_STRIDE, last + 1, LARGEST_STRIDE)


def check_runs(runs: int) -> None:
    """Raise UserError for fewer runs than memory needs to settle."""
    if runs < LEAST_RUNS:
        raise UserError(f"--soak {runs}: give at least {LEAST_RUNS}, since memory takes some hundreds to settle")


def soak(subject: Subject, settings: Settings, runs: int) -> dict[str, Any]:
    """Run `runs` times at the subject's size, then `runs` times at varying sizes; what its process holds all along.

    Each phase, `fixed` and `varying`, has the readings of `HELD` and what of it is `growing`; `varying` is None
    where the model takes one size only.

    Raises:
        EngineFailed: the engine does not run. UserError: see `check_runs`.
    """
    check_runs(runs)
    subject = replace(subject, streams=1)  # a run is one call of one predictor
    shapes = varying_shapes(subject, settings.seed)
    shares = [runs * (k + 1) // READINGS - runs * k // READINGS for k in range(READINGS)]  # runs before each reading
    result: dict[str, Any] = {
        "label": subject.name,
        "engine": subject.engine,
        "threads": subject.threads,
        "batch": subject.batch,
        "streams": subject.streams,
        "runs": runs,
    }
    session = Session(subject, settings.pin)
    try:
        session.open(settings.seed)
        session("turn", calls=settings.warmup)
        with bar(READINGS * (2 if shapes else 1), f"soak {subject.name} {subject.engine}") as progress:
            fixed = []
            for share in shares:
                session("turn", calls=share)
                fixed.append(session("used"))
                progress.advance()
            varying = []
            if shapes:
                # Every shape once before memory counts: the first of each may allocate, the second must not.
                session("vary", shapes=shapes, seed=settings.seed)
                turns = itertools.cycle(shapes)
                for share in shares:
                    session("vary", shapes=list(itertools.islice(turns, share)), seed=settings.seed)
                    varying.append(session("used"))
                    progress.advance()
    finally:
        session.close()
    for phase, readings in (("fixed", fixed), ("varying", varying)):
        held = {name: [one[name] for one in readings] for name in HELD}
        result[phase] = {**held, "growing": growing(readings)} if readings else None
    return result
