"""Which scale, input size and engine fit a budget on this machine, by the latency models that were calibrated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppcls_ext.core.bounds import mapping
from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.models.factory import FAMILY, SEARCHED, spec_of_arch
from ppcls_ext.models.network_spec import CLASSES, NetworkSpec
from ppcls_ext.models.spec import SCALES, SPECS, LCNetSpec, scale_name
from ppcls_ext.search.calibrations import calibrating_command, doubt_outside
from ppcls_ext.search.costs import parts_of_space
from ppcls_ext.search.latency import LatencyModel
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.space import INPUT_SIZES, SPACES, square_side
from ppcls_ext.tasks.classes import Classes

PAPER_SIZE = 224  # pixels; what is advised where no config says another


@dataclass(frozen=True)
class Asked:
    """A network that advice is asked about.

    Attributes:
        side: of its images, in pixels.
        class_num: of its head.
        note: what its config leaves open, in a line; empty for nothing.
    """

    spec: NetworkSpec
    side: int
    class_num: int
    note: str


def asked_about(config: Config) -> Asked:
    """The network of a config, without looking at its data.

    Raises:
        UserError: another task, a network that no latency model knows, images that none is for.
    """
    task = config.global_section.task
    if task != "classification":
        raise UserError(
            f"Global.task: latency models know classifiers, not {task}; ask about a classifier with the same backbone"
        )
    arch = mapping(config.get("Arch"), "Arch")
    spec, note = spec_of(arch), ""
    class_num = Classes(arch.get("class_num", CLASSES), lambda: None, lambda: None).fixed
    if class_num is None:
        class_num = CLASSES
        note = f"Arch.class_num: the number of classes is not known before a training; predicted with {CLASSES:,}"
    return Asked(spec, square_side(config.global_section.image_shape), class_num, note)


def spec_of(arch: Mapping[str, Any]) -> NetworkSpec:
    """The network of a config's `Arch` section. Raises UserError for one that no latency model knows."""
    name = str(arch.get("name", ""))
    if not name:
        raise UserError("Arch.name: there is none; give the config of a network")
    known = [*SPECS, FAMILY, SEARCHED]
    if name not in known:
        raise UserError(f"Arch.name: a latency model knows no network '{name}'; {nearest(name, known)}")
    return spec_of_arch(arch)


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
        own: predicted milliseconds of the network that was asked about, for each engine that it can be predicted on.
        options: for each scale that fits at some size, the largest size that does, and `best`; largest scales first.
        best: of all that fit, the largest scale at the size that was asked for, or else the one with the most work;
            None where no scale is so fast.
        fastest: of all scales at all sizes.
        doubts: why predictions may be off or are missing, a line for each calibration that was not accepted, has no
            prices for what the network does, or has measured none of its size.
    """

    own: Mapping[str, float]
    options: Sequence[Option]
    best: Option | None
    fastest: Option
    doubts: Sequence[str]


def advise(calibrations: Sequence[Calibration], latency: float, asked: Asked | None = None) -> Advice:
    """See `Advice`.

    Args:
        latency: of one image, in milliseconds, at most.
        asked: the network that is asked about, if any.
    """
    side, class_num = (PAPER_SIZE, CLASSES) if asked is None else (asked.side, asked.class_num)
    models = {c.target.engine: c.model for c in calibrations if c.model is not None}
    sizes = _sizes(calibrations, side)
    ways = [_fastest(models, scale, size, class_num) for scale in SCALES for size in sizes]
    fitting = [way for way in ways if way.ms <= latency]
    wanted = [way for way in fitting if way.input_size == side] or fitting
    best = max(wanted, key=_work, default=None)
    largest = {way.scale: way for way in sorted(fitting, key=lambda way: way.input_size)}
    listed = {*largest.values(), *([] if best is None else [best])}
    options = sorted(listed, key=lambda way: (way.scale, way.input_size), reverse=True)
    doubts = [c.doubt for c in calibrations if c.doubt]
    own: dict[str, float] = {}
    if asked is not None:
        own, more = _predicted(calibrations, asked)
        doubts += more
    return Advice(own, options, best, min(ways, key=lambda way: way.ms), doubts)


def _predicted(calibrations: Sequence[Calibration], asked: Asked) -> tuple[dict[str, float], list[str]]:
    """Milliseconds of the network that is asked about on each engine, and a line for each doubt."""
    spec, advised = (one.replace(input_size=asked.side) for one in (asked.spec, LCNetSpec().network()))
    own: dict[str, float] = {}
    doubts: list[str] = []
    for calibration in calibrations:
        assert calibration.model is not None  # it is finished
        engine, unknown = calibration.target.engine, calibration.model.unknown(spec)
        if unknown:
            what = f"the calibration of {engine} has no {', '.join(unknown)}: nothing is said of it"
            doubts.append(what + _remedy(calibration, unknown))
        else:
            own[engine] = calibration.model.predict(spec, asked.class_num)
        outside = doubt_outside(calibration, advised, *([] if unknown else [spec]))
        doubts += [outside] if outside else []
    return own, doubts


def _sizes(calibrations: Sequence[Calibration], side: int) -> list[int]:
    """The input sizes to advise: the one that was asked for, and those that were measured."""
    measured = (size for size in INPUT_SIZES if all(c.has_size(size) for c in calibrations))
    return sorted({*measured, side})


def _work(way: Option) -> int:
    return LCNetSpec(scale=way.scale).network().count(0, way.input_size).flops


def _remedy(calibration: Calibration, unknown: Sequence[str]) -> str:
    """Which calibration would know what this one does not, in words; empty: none of a space that there is."""
    for name, space in SPACES.items():
        if name != calibration.space and set(unknown) <= parts_of_space(space):
            target = calibration.target
            return f"; make one of a larger space: {calibrating_command(target.engine, target.threads, name)}"
    return ""


def _fastest(models: Mapping[str, LatencyModel], scale: float, size: int, class_num: int) -> Option:
    spec = LCNetSpec(scale=scale).network().replace(input_size=size)
    engine = min(models, key=lambda name: models[name].predict(spec, class_num))
    return Option(scale, size, engine, models[engine].predict(spec, class_num))
