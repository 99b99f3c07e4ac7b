"""The calibrations that were made on this machine: where they are kept, and which hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import counted
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.runtime.choice import PREFERRED
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.remembered import cache_folder
from ppcls_ext.search.calibrate import can_be_fitted, fitted, target_of
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.space import INPUT_SIZES
from ppcls_ext.search.wish import SPACE


def calibration_file(engine: str, threads: int, space: str, quick: bool = False) -> Path:
    """Where a calibration of this user's machine is kept unless a file is named.

    Args:
        quick: it rests on too few calls; a whole one must not go on with them.
    """
    return cache_folder() / "latency" / f"{engine}-{threads}-{space}{'-quick' * quick}.json"


def calibrating_command(
    engine: str, threads: int, space: str = SPACE, file: Path | None = None, quick: bool = False
) -> str:
    """The command that makes a calibration, or goes on with it.

    Args:
        file: where it is kept, if that is known; one that is named as the quick ones are is a quick one.
        quick: it is a quick one, whatever its file is named.
    """
    flags = "" if space == SPACE else f" --space {space}"
    named_quick = file == calibration_file(engine, threads, space, quick=True)
    if quick or named_quick:
        flags += " --quick"
    if file is not None and not named_quick and file != calibration_file(engine, threads, space, quick):
        flags += f" --calibration {shlex.quote(str(file))}"
    return f"pplcnet search --calibrate{flags} --engine {shlex.quote(engine)} --threads {threads}"


def own_calibrations(
    threads: int,
    files: Sequence[Path] = (),
    space: str | None = None,
    engine: str | None = None,
    spec: NetworkSpec | None = None,
) -> list[Calibration]:
    """The finished calibrations of this machine for a number of threads, one of each engine.

    Those of the user that are damaged, unfinished or of another version or machine are left out with a warning.
    Of an engine's, one that knows all that `spec` does comes before others, one of `space` then, an accepted one before
    one that is not, and then the most accurate.

    Args:
        files: to read instead of all of the user's.
        engine: only those of this one.
    Raises:
        UserError: none; one of `files` that is damaged, unfinished, or of another machine, engine, version or number of
            threads.
    """
    found = _named(files, threads, engine) if files else _kept_here(threads, engine)
    if not found:
        of_engine = "" if engine is None else f" of {engine}"
        how_long = ", in about 15 minutes" if space in (None, SPACE) else ""  # others are larger
        raise UserError(
            f"no calibration{of_engine} of this machine for {counted(threads, 'thread')}; make one"
            f"{how_long}: {calibrating_command(engine or PREFERRED[0], threads, space or SPACE)}"
        )

    def order(calibration: Calibration) -> tuple[Any, ...]:
        assert calibration.model is not None
        lacks = spec is not None and bool(calibration.model.unknown(spec))
        return lacks, calibration.space != space, bool(calibration.doubt), _error(calibration)

    engines = dict.fromkeys(calibration.target.engine for calibration in found)
    return [min((one for one in found if one.target.engine == name), key=order) for name in engines]


def _named(files: Sequence[Path], threads: int, engine: str | None) -> list[Calibration]:
    """What files hold that were named. Raises UserError for the first that does not hold here."""
    found = [read_calibration(file) for file in files]
    for file, calibration in zip(files, found, strict=True):
        refusal = _refusal(file, calibration, threads, engine)
        if refusal:
            raise UserError(refusal)
    return [up_to_date(calibration) for calibration in found]


def _kept_here(threads: int, engine: str | None) -> list[Calibration]:
    """The user's calibrations that hold, with a warning for each installed engine that has others alone.

    Raises:
        UserError: there are others alone; it names the first.
    """
    found: list[Calibration] = []
    refusals: list[tuple[str, str]] = []  # engine, by the name of a file that cannot be read, and why not
    for file in sorted((cache_folder() / "latency").glob("*.json")):
        try:
            calibration = read_calibration(file, f"delete it and calibrate again: {_command_of(file)}")
        except UserError as error:
            kept = _kept_for(file)
            if kept is None or (kept[1] == threads and engine in (None, kept[0])):
                refusals.append(("" if kept is None else kept[0], str(error)))
            continue
        target = calibration.target
        if target.threads != threads or engine not in (None, target.engine):
            continue
        refusal = _refusal(file, calibration, threads, engine, "delete it and ")
        if refusal:
            refusals.append((target.engine, refusal))
        else:
            found.append(up_to_date(calibration))
    known = {calibration.target.engine for calibration in found}
    # What is left out of an answer is not slower than what is in it: the user is told.
    told = [refusal for of, refusal in refusals if of not in known and (_installed(of) or not of)]
    if refusals and not found:
        raise UserError(next(iter(told), refusals[0][1]))
    for refusal in told:
        say(f"warning: {refusal}")
    return found


def up_to_date(calibration: Calibration) -> Calibration:
    """A finished calibration, fitted anew if a version that counted other costs has fitted it: what it has measured
    holds all the same. One that has not enough of that keeps its prices.
    """
    assert calibration.model is not None
    costs = {name for one in calibration.measured if one.ratio is not None for name in costs_of(one.spec)}
    of_today = costs <= set(calibration.model.prices)
    return calibration if of_today or not can_be_fitted(calibration) else fitted(calibration)


def _refusal(file: Path, calibration: Calibration, threads: int, engine: str | None, delete: str = "") -> str:
    """Why a calibration does not hold, and what to do, in a line; empty where it does.

    Args:
        delete: how the advice to calibrate again begins.
    """
    target, space = calibration.target, calibration.space
    differences = _differences(calibration, threads, engine)
    if differences:
        again = calibrating_command(engine or target.engine, threads, space)
        return f"calibration {file}: {'; '.join(differences)}; {delete}calibrate again: {again}"
    if calibration.model is None or calibration.accuracy is None:
        command = calibrating_command(target.engine, threads, space, file, calibration.quick)
        return f"calibration {file}: it is not finished; this goes on with it: {command}"
    return ""


def _kept_for(file: Path) -> tuple[str, int, str] | None:
    """The engine, threads and space of the calibration that is kept in a file, by its name; None: it says nothing."""
    parts = re.fullmatch(r"(.+)-([0-9]{1,4})-([^-]+)", file.stem.removesuffix("-quick"))
    return None if parts is None else (parts[1], int(parts[2]), parts[3])


def _command_of(file: Path) -> str:
    """The command that makes a calibration in a file of the user's cache again, or says how one is made."""
    kept = _kept_for(file)
    return "pplcnet search --calibrate" if kept is None else calibrating_command(*kept, file)


def _installed(engine: str) -> bool:
    return engine in ENGINES and engine_class(engine).installed()


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
