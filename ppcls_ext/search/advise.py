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
from ppcls_ext.runtime.memory import cache_folder
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.latency import LatencyModel, shortfalls
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.space import INPUT_SIZES

PAPER_SIZE = 224  # pixels; what is advised where no config says another
HOW = "pplcnet search --calibrate --engine {engine} --threads {threads}"


def calibration_file(engine: str, threads: int, space: str) -> Path:
    """Where a calibration of this user's machine is kept unless a file is named."""
    return cache_folder() / "latency" / f"{engine}-{threads}-{space}.json"


def own_calibrations(threads: int, files: Sequence[Path] = ()) -> list[Calibration]:
    """The finished calibrations of this machine for a number of threads; of an engine's, the most accurate.

    Args:
        files: to read instead of all of the user's.
    Raises:
        UserError: none; one of `files` that is of another machine, engine, version or number of threads, or unfinished.
    """
    candidates = [*files] or sorted((cache_folder() / "latency").glob("*.json"))
    found: dict[str, Calibration] = {}
    refused = []
    for file in candidates:
        calibration = read_calibration(file)
        differences = calibration.target.differences(target_of(calibration.target.engine, threads))
        if calibration.model is None or calibration.accuracy is None:
            differences.append("it is not finished")
        if differences:
            refused.append(f"{file}: {'; '.join(differences)}")
            continue
        known = found.get(calibration.target.engine)
        if known is None or _error(calibration) < _error(known):
            found[calibration.target.engine] = calibration
    if refused and (files or not found):
        raise UserError(f"calibration {refused[0]}; calibrate again: {HOW.format(engine='ENGINE', threads=threads)}")
    if not found:
        raise UserError(
            f"no calibration of this machine for {threads} threads; make one: "
            + HOW.format(engine="onednn", threads=threads)
        )
    return list(found.values())


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
        doubts: why predictions may be off, one line for each engine.
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
    doubts = [
        f"{c.target.engine}: {'; '.join(shortfalls(c.accuracy['model']))}"
        for c in calibrations
        if c.accuracy is not None and shortfalls(c.accuracy["model"])
    ]
    return Advice(own, [largest[scale] for scale in sorted(largest, reverse=True)], best, doubts)


def _fastest(models: Mapping[str, LatencyModel], scale: float, size: int, class_num: int) -> Option:
    spec = LCNetSpec(scale=scale).network().replace(input_size=size)
    engine = min(models, key=lambda name: models[name].predict(spec, class_num))
    return Option(scale, size, engine, models[engine].predict(spec, class_num))
