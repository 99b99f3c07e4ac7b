"""`engine="auto"`: the fastest engine that agrees with the export, on this machine, for this model and input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ppcls_ext.core.cpu import Watch, cpu_flags, cpu_model, cpuid
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.logs import log
from ppcls_ext.core.version import __version__
from ppcls_ext.runtime.choice import PREFERRED, Candidate, EngineChoice, no_engine
from ppcls_ext.runtime.contest import SECONDS, Contender, EngineContender, Entry, Name, compete, ratio
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, FORMATS
from ppcls_ext.runtime.exported import PARITY, RECIPE, Exported, read_parity, sha256
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.process import EngineFailed
from ppcls_ext.runtime.remembered import recall, remember

Shapes = Sequence[tuple[int, ...]]
Start = Callable[[Name], Contender]

DISTURBING_CORES = 0.3  # that others used while engines were timed, from which they suffer in different measure
BUSY_SECONDS = 3600.0  # a choice that was made beside such processes is remembered for so long


def choose_fastest(
    exported: Exported, inference: Inference, shapes: Shapes, threads: int, start: Start | None = None
) -> EngineChoice:
    """The fastest engine that gives the outputs that the export stores: remembered, or found out within seconds.

    Engines run in processes of their own, which take turns. Where the fastest has no sure lead over the preferred one
    (the first of `PREFERRED` that agrees), that is taken.

    Args:
        inference: of the export, which compares outputs.
        shapes: of each input, with the batch, that the engine is to be fast for.
        threads: of the CPU.
        start: opens the model with an engine; default: in a process of its own.
    Raises:
        UserError: an export without stored outputs, a file that is not as export wrote it, no engine that agrees.
    """
    check_auto(exported)
    names = candidates(exported)
    inputs = [{"shape": list(shape), "dtype": i.dtype} for shape, i in zip(shapes, exported.inputs, strict=True)]
    key = {
        "model": sha256(exported.folder / RECIPE),  # the recipe holds the checksums of all other files
        "cpu": [cpu_model(), cpuid(), *cpu_flags()],
        "versions": _versions(names),
        "threads": threads,
        "shapes": [spec["shape"] for spec in inputs],
    }
    known = _remembered(recall(key), names)
    if known is not None:
        return known

    exported.verify([PARITY, *dict.fromkeys(file for name in names for file in FORMATS[name.model_format])])
    stored = {f: read_parity(exported, f) for f in {name.model_format for name in names}}
    if len(names) > 1:
        log.info(
            "auto: opens this model in %d ways and has them take turns for up to %.0f s; what is the fastest here is "
            "remembered",
            len(names),
            SECONDS,
        )
    batches = [inputs_of for inputs_of, _ in next(iter(stored.values()))]
    watch = Watch()
    entries, decision = compete(
        names,
        start or (lambda name: EngineContender(exported.folder, name, inputs, threads)),
        lambda name, found: largest_difference(found, [e for _, e in stored[name.model_format]], inference),
        batches,
        tolerance(exported),
    )
    if decision is None:
        reasons = "; ".join(f"{entry.name}: {entry.refused}" for entry in entries)
        raise UserError(f"exported model {exported.folder}: no engine here gives the outputs of the export ({reasons})")
    preferred = next(entry for entry in entries if entry.rounds or entry is decision.winner)
    taken = watch.busy().taken
    busy = taken > DISTURBING_CORES and any(entry.rounds for entry in entries)  # a sole engine was not timed
    note = f"; others took {taken:.1f} cores meanwhile, so that it is remembered for an hour" if busy else ""
    choice = EngineChoice(
        *decision.winner.name,
        reason=decision.reason + note,
        candidates=tuple(_candidate(entry, preferred) for entry in entries),
        threads=threads,
        shapes=tuple(tuple(shape) for shape in shapes),
    )
    remember(key, choice.to_dict(), BUSY_SECONDS if busy else None)
    return choice


def check_auto(exported: Exported) -> None:
    """Raise UserError where an export does not have what choosing needs: its outputs, a tolerance, an engine."""
    tolerance(exported)
    if not (exported.folder / PARITY).is_file():
        raise UserError(
            f"exported model {exported.folder}: no {PARITY} in it, by which engine auto compares engines; export "
            "again, or name an engine"
        )
    if not candidates(exported):
        raise no_engine(exported)


def candidates(exported: Exported) -> list[Name]:
    """Every installed engine of float32 with every format of the folder that it runs, the preferred ones first.

    Engines of reduced precision do not give the outputs that the export stores; they are named by those who want them.
    """
    order = [*PREFERRED, *(name for name in ENGINES if name not in PREFERRED)]
    kinds = [engine_class(name) for name in order]
    usable = [
        kind
        for kind in kinds
        if set(kind.formats) & set(exported.formats) and kind.installed() and kind.precision == FLOAT
    ]
    return [Name(kind.name, f) for kind in usable for f in kind.formats if f in exported.formats]


def tolerance(exported: Exported) -> float:
    """How far outputs may be from the stored ones. Raises UserError where the recipe does not say."""
    checked = exported.recipe.get("checked")
    value = checked.get("tolerance") if isinstance(checked, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UserError(
            f"exported model {exported.folder}: its {RECIPE} has no tolerance, by which engine auto compares engines; "
            "export again, or name an engine"
        )
    return float(value)


def largest_difference(
    found: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[np.ndarray]], inference: Inference
) -> float:
    """How far outputs are from the stored ones, by the task's measure.

    Raises:
        EngineFailed: numbers that are not finite, or outputs of another kind.
    """
    for ours, theirs in zip(found, expected, strict=True):
        if [array.ndim for array in ours] != [array.ndim for array in theirs]:
            raise EngineFailed(f"it gives shapes {_shapes(ours)} instead of {_shapes(theirs)}")
        if not all(np.isfinite(array).all() for array in ours):
            raise EngineFailed("it gives numbers that are not finite")
    try:
        return max(inference.difference(f, e) for f, e in zip(found, expected, strict=True))
    except (ValueError, IndexError) as error:  # shapes that do not go together
        shapes = f"{_shapes(found[0])} instead of {_shapes(expected[0])}"
        raise EngineFailed(f"its outputs cannot be compared: {shapes}") from error


def _shapes(arrays: Sequence[np.ndarray]) -> str:
    return " and ".join(str(list(array.shape)) for array in arrays)


def _candidate(entry: Entry, preferred: Entry) -> Candidate:
    measured = bool(entry.rounds) and bool(preferred.rounds)
    interval = ratio(entry, preferred) if measured else {}
    calls = [ms for part in entry.rounds for ms in part] or ([entry.fastest] if np.isfinite(entry.fastest) else [])
    return Candidate(
        *entry.name,
        difference=entry.difference,
        ms=float(np.median(calls)) if calls else None,
        rounds=len(entry.rounds),
        ratio=interval.get("ratio"),
        low=interval.get("low"),
        high=interval.get("high"),
        refused=entry.refused,
        note=entry.note,
    )


def _versions(names: Sequence[Name]) -> dict[str, str]:
    """Versions of this package, and of those that the engines run on."""
    found = {"pplcnet": __version__}
    for package in sorted({engine_class(name.engine).package for name in names}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a build of its own, without metadata
            found[package] = "unknown"
    return found


def _remembered(value: Any, names: Sequence[Name]) -> EngineChoice | None:
    """A remembered choice; None where it is not one that these candidates could have led to."""
    try:
        choice = EngineChoice.from_dict(value)
    except (TypeError, KeyError, ValueError):
        return None
    return choice if Name(choice.engine, choice.model_format) in names else None
