"""How far a run has come, and the means of its losses since the epoch began."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.tasks.step import Step


@dataclass
class Position:
    """How far a run has come, and its best result: all that resuming needs beside tensors."""

    epoch: int = 0  # whole epochs done
    step: int = 0  # steps done in the epoch that is under way
    total_steps: int = 0
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0  # evaluations since the best one
    stopped: bool = False  # whether Global.early_stop has ended the run
    sums: dict[str, float] = field(default_factory=dict)  # losses and stats, summed over the epoch's images
    images: int = 0  # number of images in `sums`

    @classmethod
    def read(cls, values: Any, steps: int) -> Position:
        """What a training state says, which may be damaged or of another program.

        Args:
            steps: in an epoch.
        Raises:
            UserError: values of other types, or that do not go together.
        """
        default = asdict(cls())  # states of earlier versions do not have all values
        if not isinstance(values, Mapping) or not set(values) <= set(default):
            raise UserError("its position has other entries than a run's")
        values = {**default, **values}
        for name in ("epoch", "step", "total_steps", "stale", "images"):
            if type(values[name]) is not int or not 0 <= values[name] < 2**53:
                raise UserError(f"its position has {name} {str(values[name])[:40]!r}, expected a whole number from 0")
        best, best_epoch, sums = values["best"], values["best_epoch"], values["sums"]
        if best is not None and not _is_number(best):
            raise UserError(f"its position has best {str(best)[:40]!r}, expected a number")
        if (best is None) != (best_epoch is None) or not (best_epoch is None or type(best_epoch) is int):
            raise UserError(f"its position has best_epoch {str(best_epoch)[:40]!r} for a best of {best}")
        if type(values["stopped"]) is not bool:
            raise UserError("its position has a value for stopped that is neither true nor false")
        if not isinstance(sums, Mapping) or not all(map(_is_number, sums.values())):
            raise UserError("its position has sums that are no numbers")
        position = cls(**{**values, "sums": {name: float(value) for name, value in sums.items()}})
        position._check(steps)
        return position

    def _check(self, steps: int) -> None:
        """Raise UserError where the counts contradict each other; the last epoch of a run by steps may be a part."""
        done = self.total_steps - self.epoch * steps
        if (done != self.step or self.step > steps) if self.step else not -steps < done <= 0:
            raise UserError(
                f"its position is step {self.step} of epoch {self.epoch + 1} after {self.total_steps} steps in all, "
                f"which cannot be with {steps} steps in an epoch"
            )
        # A run that was lengthened within an epoch has no losses of it before its first step.
        began_here = self.images == 0 and not self.sums and self.step < steps
        if self.step and not began_here and (self.images < 1 or "loss" not in self.sums):
            raise UserError("its position has no losses of the epoch that is under way")

    def means(self) -> dict[str, float]:
        """Losses and stats as means over the epoch's images so far; empty before the first."""
        return {name: total / self.images for name, total in self.sums.items() if self.images}

    def add(self, step: Step) -> None:
        """Count a step's losses and stats.

        Raises:
            CheckFailed: one of them is not a number.
        """
        for name, value in {**step.losses, **step.stats}.items():
            number = float(value)
            if not math.isfinite(number):
                raise diverged(name, number, f"near step {self.total_steps} (epoch {self.epoch + 1})")
            self.sums[name] = self.sums.get(name, 0.0) + number * step.images
        self.images += step.images

    def end_epoch(self) -> None:
        """Go on to the next epoch, whose sums start anew."""
        self.epoch, self.step = self.epoch + 1, 0
        self.sums, self.images = {}, 0

    def reopen_epoch(self, steps: int) -> None:
        """Go back into the last epoch, where a run by steps ended within it and is now to go on.

        Args:
            steps: in an epoch.
        """
        left = self.epoch * steps - self.total_steps
        if self.step == 0 and left > 0:
            self.epoch, self.step = self.epoch - 1, steps - left

    def rank(self, value: float, patience: int | None) -> bool:
        """Whether the result of an evaluation is the best so far.

        Args:
            value: the metric that the task maximises.
            patience: evaluations without a better one after which the run is `stopped`; None: never.
        """
        if self.best is None or value > self.best:
            self.best, self.best_epoch, self.stale = value, self.epoch, 0
            return True
        self.stale += 1
        self.stopped = patience is not None and self.stale >= patience
        return False


def diverged(name: str, value: float, where: str) -> CheckFailed:
    """What to raise for a loss or a metric that is not a number."""
    return CheckFailed(
        f"{name} is {value} {where}: training diverged; lower Optimizer.lr.learning_rate or start from pretrained "
        "weights"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Pending:
    """Steps whose losses are still on the device, and the clock for images a second.

    Reading a loss waits for the device to finish its step, so losses are brought over together, for a log line.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count images and time from now on."""
        self._start, self._images = time.monotonic(), 0

    def extend(self, steps: Iterable[Step]) -> None:
        """Keep steps until `flush`."""
        self._steps.extend(steps)

    def flush(self, position: Position) -> None:
        """Count all steps that are kept. Raises CheckFailed for a loss that is not a number."""
        for step in self._steps:
            position.add(step)
            self._images += step.images
        self._steps.clear()

    def images_per_second(self) -> float:
        """The speed of the steps flushed since the clock was started; the clock starts anew."""
        speed = self._images / max(time.monotonic() - self._start, 1e-9)
        self.restart_clock()
        return speed
