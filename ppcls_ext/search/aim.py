"""What a wish comes to on this machine: a model of latencies, a bound, and the part of the space around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppcls_ext.core.config import Config, load_config, trained_weights
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.models.spec import SCALES, SPECS, LCNetSpec, scale_name
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.search.bound import bounded_space
from ppcls_ext.search.calibrations import calibrating_command, doubt_outside, own_calibrations
from ppcls_ext.search.costs import drawn_from
from ppcls_ext.search.folder import SearchFolder
from ppcls_ext.search.held_out import check_task
from ppcls_ext.search.latency import LatencyModel
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.space import Space, space_named, square_side
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task


@dataclass(frozen=True)
class Aim:
    """A wish with all that follows from it, before anything is trained or measured.

    Attributes:
        task: that the network is for.
        model: predicts latencies.
        calibrated: when its calibration was begun.
        doubts: why it may be off, a line each: its calibration was not accepted, or measured no networks like these.
        bound: predicted milliseconds of a network at most.
        space: the part around PP-LCNet of `scale`, for images of the task's side.
    """

    wish: Wish
    task: Task
    model: LatencyModel
    calibrated: str
    doubts: tuple[str, ...]
    bound: float
    space: Space
    scale: float

    @property
    def class_num(self) -> int:
        """Classes of the task."""
        return self.task.class_num

    @property
    def side(self) -> int:
        """Pixels of the images."""
        return self.space.input_sizes[0]

    def latency(self, spec: NetworkSpec) -> float:
        """Predicted milliseconds of a network with the head of the task."""
        return self.model.predict(spec, self.class_num)

    def identity(self) -> dict[str, Any]:
        """What candidates depend on, beside the data and the calibration, JSON-able."""
        wish = self.wish
        return {
            "space": f"{self.space.name} around {self.scale:g}x at {self.side} px",
            "bound": round(self.bound, 6) if wish.like is None else wish.like,
            "engine": wish.engine,
            "threads": wish.threads,
            "accuracy": wish.accuracy,
            "seed": self.task.global_section.seed,
            "sizes": list(wish.sizes),
            "supernet": None if wish.supernet is None else str(wish.supernet.resolve()),
        }

    def named(self) -> dict[str, NetworkSpec]:
        """What the networks that are found are measured beside: PP-LCNets near the bound, and what the wish names."""
        found = {
            f"PPLCNet_{scale_name(scale)}": LCNetSpec(scale=scale).network().replace(input_size=self.side)
            for scale in SCALES
            if 0.5 * self.scale <= scale <= 1.5 * self.scale
        }
        if self.wish.like is not None:
            found.setdefault(self.wish.like, SPECS[self.wish.like].network().replace(input_size=self.side))
        return found


def aim_of(wish: Wish) -> Aim:
    """What a wish comes to.

    Raises:
        UserError: wrong config, calibration, bound, or folder of an earlier search.
    """
    given = load_config(wish.config, wish.overrides)
    given.pop("Expect", None)  # what the config promises is of another network
    task = make_task(given)
    check_task(task)
    _check_start(wish, given)
    # What is wrong with the wish itself comes before the advice to calibrate for 15 minutes.
    side, named = square_side(task.global_section.image_shape), space_named(wish.space)
    if wish.like is not None and wish.like not in SPECS:
        raise UserError(f"--like {wish.like}: no network of that name; {nearest(wish.like, SPECS)}")
    engine_class(wish.engine).require()
    calibration = _calibration(wish)
    model = calibration.model
    assert model is not None  # it is finished
    unknown = unknown_parts(model, named.replace(input_sizes=(side,)))
    if unknown:
        raise UserError(
            f"space '{named.name}': the calibration has no {', '.join(unknown)}; make one of this space: "
            + calibrating_command(wish.engine, wish.threads, named.name)
        )

    def latency(spec: NetworkSpec) -> float:
        return model.predict(spec, task.class_num)

    if wish.like is not None:
        bound = latency(SPECS[wish.like].network().replace(input_size=side))
    else:
        assert wish.latency is not None  # one of the two is given
        bound = wish.latency
    if wish.supernet is None:
        space, scale = bounded_space(named, latency, bound, side)
    else:
        space, scale = SearchFolder(wish.supernet).space_of_supernet(named, side)
    doubts = (calibration.doubt, doubt_outside(calibration, space.smallest(), space.largest()))
    return Aim(wish, task, model, calibration.created, tuple(filter(None, doubts)), bound, space, scale)


def _check_start(wish: Wish, config: Config) -> None:
    """Raise UserError for weights to start from that would do nothing."""
    start = config.global_section.pretrained_model
    if start is None or start == str(trained_weights(config.path)):  # which come with a run folder, asked for or not
        return
    if wish.supernet is not None:
        reason = "the supernet of --supernet is trained already"
    elif wish.accuracy != "supernet":
        reason = f"--accuracy {wish.accuracy} starts from nothing, since every network has other shapes"
    else:
        return
    raise UserError(f"Global.pretrained_model: {reason}; leave it out, or give -o Global.pretrained_model=null")


def _calibration(wish: Wish) -> Calibration:
    """That of this machine, engine and number of threads."""
    files = [] if wish.calibration is None else [wish.calibration]
    (calibration,) = own_calibrations(wish.threads, files, wish.space, wish.engine)
    return calibration


def unknown_parts(model: LatencyModel, space: Space) -> list[str]:
    """Kinds of operations in a space that a latency model has no price for."""
    return sorted({part for spec in drawn_from(space) for part in model.unknown(spec)})
