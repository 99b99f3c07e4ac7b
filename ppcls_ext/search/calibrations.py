"""The calibrations that were made on this machine: where they are kept, and which hold."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.runtime.choice import PREFERRED
from ppcls_ext.runtime.remembered import cache_folder
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.space import INPUT_SIZES
from ppcls_ext.search.wish import SPACE


def calibration_file(engine: str, threads: int, space: str, quick: bool = False) -> Path:
    """Where a calibration of this user's machine is kept unless a file is named.

    Args:
        quick: it rests on too few calls; a whole one must not go on with them.
    """
    return cache_folder() / "latency" / f"{engine}-{threads}-{space}{'-quick' * quick}.json"


def calibrating_command(engine: str, threads: int, space: str = SPACE, file: Path | None = None) -> str:
    """The command that makes a calibration, or goes on with it.

    Args:
        file: where it is kept, if that is known.
    """
    flags = "" if space == SPACE else f" --space {space}"
    if file is not None and file == calibration_file(engine, threads, space, quick=True):
        flags += " --quick"
    elif file is not None and file != calibration_file(engine, threads, space):
        flags += f" --calibration {shlex.quote(str(file))}"
    return f"pplcnet search --calibrate{flags} --engine {engine} --threads {threads}"


def own_calibrations(
    threads: int,
    files: Sequence[Path] = (),
    space: str | None = None,
    engine: str | None = None,
    spec: NetworkSpec | None = None,
) -> list[Calibration]:
    """The finished calibrations of this machine for a number of threads, one of each engine.

    Of an engine's, one that knows all that `spec` does comes before others, one of `space` then, an accepted one before
    one that is not, and then the most accurate.

    Args:
        files: to read instead of all of the user's.
        engine: only those of this one.
    Raises:
        UserError: none; one of `files` that is of another machine, engine, version or number of threads, or unfinished.
    """
    candidates = [*files] or sorted((cache_folder() / "latency").glob("*.json"))
    found: dict[str, list[Calibration]] = {}
    refused = []
    for file in candidates:
        calibration = read_calibration(file)
        target = calibration.target
        if not files and (target.threads != threads or engine not in (None, target.engine)):
            continue
        differences = _differences(calibration, threads, engine)
        if differences:
            command = calibrating_command(engine or target.engine, threads, calibration.space)
            refused.append(f"calibration {file}: {'; '.join(differences)}; calibrate again: {command}")
        elif calibration.model is None or calibration.accuracy is None:
            command = calibrating_command(target.engine, threads, calibration.space, file)
            refused.append(f"calibration {file}: it is not finished; this goes on with it: {command}")
        else:
            found.setdefault(target.engine, []).append(calibration)
    if refused and (files or not found):
        raise UserError(refused[0])
    if not found:
        of_engine = "" if engine is None else f" of {engine}"
        how_long = ", in about 20 minutes" if space in (None, SPACE) else ""  # others are larger
        raise UserError(
            f"no calibration{of_engine} of this machine for {threads} thread{'s' * (threads != 1)}; make one"
            f"{how_long}: {calibrating_command(engine or PREFERRED[0], threads, space or SPACE)}"
        )

    def order(calibration: Calibration) -> tuple[Any, ...]:
        assert calibration.model is not None
        lacks = spec is not None and bool(calibration.model.unknown(spec))
        return lacks, calibration.space != space, bool(calibration.doubt), _error(calibration)

    return [min(several, key=order) for several in found.values()]


def doubt_outside(calibration: Calibration, *specs: NetworkSpec) -> str:
    """A line where networks lie outside of what was measured, so that predictions may be off; empty where none does."""
    outside = dict.fromkeys(where for spec in specs for where in calibration.outside(spec))
    if not outside:
        return ""
    target = calibration.target
    line = f"outside what the calibration of {target.engine} measured: {', '.join(outside)}; predictions may be off"
    if any(not calibration.has_size(spec.input_size) and _calibrated(spec.input_size) for spec in specs):
        line += f"; to measure it too: {calibrating_command(target.engine, target.threads, calibration.space)}"
    return line


def _calibrated(size: int) -> bool:
    """Whether a calibration that is made now holds for an input size."""
    return INPUT_SIZES[0] <= size <= INPUT_SIZES[-1]


def _differences(calibration: Calibration, threads: int, engine: str | None) -> list[str]:
    """Why a calibration says nothing of this machine with a number of threads; empty where it does."""
    try:
        target = target_of(calibration.target.engine if engine is None else engine, threads)
    except UserError as error:  # the engine is not installed any more; others are
        return [str(error)]
    return calibration.target.differences(target)


def _error(calibration: Calibration) -> float:
    assert calibration.accuracy is not None
    return calibration.accuracy["model"].median
