"""Which scale, input size and engine fit a budget on this machine, by the latency models that were calibrated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.spec import SCALES, SPECS, LCNetSpec, scale_name
from ppcls_ext.runtime.remembered import cache_folder
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.latency import LatencyModel
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.space import INPUT_SIZES

PAPER_SIZE = 224  # pixels; what is advised where no config says another
HOW = "pplcnet search --calibrate --engine {engine} --threads {threads}"


def calibration_file(engine: str, threads: int, space: str, quick: bool = False) -> Path:
    """Where a calibration of this user's machine is kept unless a file is named.

    Args:
        quick: it rests on too few calls; a whole one must not go on with them.
    """
    return cache_folder() / "latency" / f"{engine}-{threads}-{space}{'-quick' * quick}.json"


def own_calibrations(threads: int, files: Sequence[Path] = (), space: str | None = None) -> list[Calibration]:
    """The finished calibrations of this machine for a number of threads, one of each engine.

    Of an engine's, one of `space` comes before others, an accepted one before one that is not, and then the most
    accurate.

    Args:
        files: to read instead of all of the user's.
    Raises:
        UserError: none; one of `files` that is of another machine, engine, version or number of threads, or unfinished.
    """
    candidates = [*files] or sorted((cache_folder() / "latency").glob("*.json"))
    found: dict[str, list[Calibration]] = {}
    refused = []
    for file in candidates:
        calibration = read_calibration(file)
        differences = _differences(calibration, threads)
        if differences:
            refused.append(f"{file}: {'; '.join(differences)}")
        else:
            found.setdefault(calibration.target.engine, []).append(calibration)
    if refused and (files or not found):
        raise UserError(f"calibration {refused[0]}; calibrate again: {HOW.format(engine='ENGINE', threads=threads)}")
    if not found:
        raise UserError(
            f"no calibration of this machine for {threads} threads; make one: "
            + HOW.format(engine="onednn", threads=threads)
        )
    return [min(several, key=lambda c: (c.space != space, bool(c.doubt), _error(c))) for several in found.values()]


def _differences(calibration: Calibration, threads: int) -> list[str]:
    """Why a calibration says nothing of this machine with a number of threads; empty where it does."""
    try:
        target = target_of(calibration.target.engine, threads)
    except UserError as error:  # the engine is not installed any more; others are
        return [str(error)]
    unfinished = calibration.model is None or calibration.accuracy is None
    return [*calibration.target.differences(target), *["it is not finished"] * unfinished]


def _error(calibration: Calibration) -> float:
    assert calibration.accuracy is not None
    return calibration.accuracy["model"].median


def spec_of(arch: Mapping[str, Any]) -> NetworkSpec:
    """The network of a config's `Arch` section. Raises UserError for one that no latency model knows."""
    name = str(arch.get("name", ""))
    if name in SPECS:
        return SPECS[name].network()
    fields = {key: value for key, value in arch.items() if key in LCNetSpec.__dataclass_fields__}
    try:
        if name == SEARCHED:
            return parse_spec(arch["arch"])
        if name == "PPLCNet":
            return LCNetSpec(**fields).network()
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"Arch: {error}") from error
    known = [*SPECS, "PPLCNet", SEARCHED]
    raise UserError(f"Arch.name: a latency model knows no network '{name}'; {nearest(name, known)}")


@dataclass(frozen=True)
class Option:
    """A way to run: a scale of PP-LCNet at an input size on the engine that is the fastest for it.

    Attributes:
        ms: predicted, of one image.
    """

    scale: float
    input_size: int
    engine: str
    ms: float

    @property
    def arch(self) -> str:
        """What `Arch.name` is for it."""
        return f"PPLCNet_{scale_name(self.scale)}"


@dataclass(frozen=True)
class Advice:
    """What fits a budget.

    Attributes:
        own: predicted milliseconds of the network that was asked about, for each engine; empty: none was.
        options: for each scale that fits at some size, the largest size that does, the largest scale first.
        best: of the options, the largest scale at the size that was asked for, or else the one with the most work.
        doubts: why predictions may be off, a line for each calibration that was not accepted.
    """

    own: Mapping[str, float]
    options: Sequence[Option]
    best: Option
    doubts: Sequence[str]


def advise(
    calibrations: Sequence[Calibration], latency: float, spec: NetworkSpec | None, input_size: int, class_num: int
) -> Advice:
    """See `Advice`.

    Args:
        latency: of one image, in milliseconds, at most.
        spec: of the network that is asked about, if any.
        input_size: that is wanted, in pixels.
        class_num: of the head.
    Raises:
        UserError: nothing is so fast, with the fastest there is.
    """
    models = {c.target.engine: c.model for c in calibrations if c.model is not None}
    ways = [_fastest(models, scale, size, class_num) for scale in SCALES for size in sorted({*INPUT_SIZES, input_size})]
    fitting = [way for way in ways if way.ms <= latency]
    if not fitting:
        least = min(ways, key=lambda way: way.ms)
        raise UserError(
            f"--latency {latency:g}: nothing is so fast; the fastest is {least.arch} at {least.input_size} px on "
            f"{least.engine} with {least.ms:.2f} ms"
        )
    wanted = [way for way in fitting if way.input_size == input_size]
    best = max(wanted or fitting, key=lambda way: LCNetSpec(scale=way.scale).network().count(0, way.input_size).flops)
    largest = {way.scale: way for way in sorted(fitting, key=lambda way: way.input_size)}
    asked = None if spec is None else spec.replace(input_size=input_size)
    own = {} if asked is None else {engine: model.predict(asked, class_num) for engine, model in models.items()}
    doubts = [c.doubt for c in calibrations if c.doubt]
    return Advice(own, [largest[scale] for scale in sorted(largest, reverse=True)], best, doubts)


def _fastest(models: Mapping[str, LatencyModel], scale: float, size: int, class_num: int) -> Option:
    spec = LCNetSpec(scale=scale).network().replace(input_size=size)
    engine = min(models, key=lambda name: models[name].predict(spec, class_num))
    return Option(scale, size, engine, models[engine].predict(spec, class_num))
