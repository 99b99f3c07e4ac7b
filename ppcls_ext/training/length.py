"""How long a run is, and how long it will take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta

from ppcls_ext.core.config import Global

MOST_LENGTHENING = (
    10  # times its epochs, at most, that a run on a small set is: each image is seen that much more often
)
FIRST_STEPS = 3  # whose time says little: kernels are compiled, workers start, memory is fetched
MEASURED_STEPS = 20  # the time of the rest is told from these
MEASURED_SECONDS = 10.0  # likewise, whichever comes later


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        epochs: begun by the end of the run.
        steps: of the optimizer in an epoch.
        last_step: where the run ends; within the last epoch where `Global.iters` is given.
        eval_interval, save_interval: in epochs.
        note: what was decided for the user, if anything.
    """

    epochs: int
    steps: int
    last_step: int
    eval_interval: int
    save_interval: int
    note: str | None = None


def length_of(section: Global, batches: int) -> Length:
    """The length of a run by its `Global` section: by `iters`, or by `epochs`, of which a small set gets more.

    Args:
        batches: of an epoch.
    """
    steps = math.ceil(batches / section.update_freq)
    every = (section.eval_interval, section.save_interval)
    if section.iters:
        return Length(math.ceil(section.iters / steps), steps, section.iters, *every)
    wanted = math.ceil((section.least_steps or 0) / steps)
    epochs = min(wanted, section.epochs * MOST_LENGTHENING)
    if epochs <= section.epochs:
        return Length(section.epochs, steps, section.epochs * steps, *every)
    # As many evaluations and saves as the epochs of the config would have had.
    factor = math.ceil(epochs / section.epochs)
    note = (
        f"{epochs} epochs, {epochs * steps} steps, since the set is small: {section.epochs} epochs have only "
        f"{section.epochs * steps} steps (Global.least_steps={section.least_steps}); "
        f"-o Global.epochs={section.epochs} trains just those"
    )
    return Length(epochs, steps, epochs * steps, every[0] * factor, every[1] * factor, note)


class Forecast:
    """Tells once, after the first steps, how long a run will take."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self._steps, self._images, self._began, self._told = 0, 0, 0.0, False

    def step(self, total_steps: int, images: int) -> str | None:
        """Count a step; gives the line to show, when it is time for it.

        Args:
            total_steps: of the run so far.
            images: of a step.
        """
        if self._told:
            return None
        self._steps += 1
        now = time.monotonic()
        if self._steps == FIRST_STEPS:
            self._began = now
        elif self._steps > FIRST_STEPS:
            self._images += images  # not all batches are full
        measured = self._steps - FIRST_STEPS
        if measured < MEASURED_STEPS or now - self._began < MEASURED_SECONDS:
            return None
        self._told = True
        pace = (now - self._began) / measured
        steps = self.last_step - total_steps
        left = timedelta(seconds=round(pace * steps))
        speed = self._images / (now - self._began)
        return f"{steps} steps to go, about {left} at {speed:.1f} images/s, without evaluations"
