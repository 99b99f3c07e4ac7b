"""What the steps of a run tell: losses, speed, and the time that they waited for data."""

from __future__ import annotations

from collections.abc import Iterable

from ppcls_ext.core.config import Global
from ppcls_ext.core.display import values_text
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.data.loader import Loader
from ppcls_ext.tasks.step import Step
from ppcls_ext.training.learner import Learner
from ppcls_ext.training.length import Length
from ppcls_ext.training.position import Pending, Position
from ppcls_ext.training.waits import Waits


class Progress:
    """Counts steps as they are done, for lines of the log and of the progress bar."""

    def __init__(self, section: Global, loader: Loader, length: Length) -> None:
        self._section, self._length = section, length
        self._pending, self._waits = Pending(), Waits(loader)

    @property
    def waiting(self) -> float:
        """The share of the time of all epochs that ended in which steps waited for data."""
        return self._waits.share_of_all()

    def begin_epoch(self) -> None:
        """Count images and time from now on."""
        self._pending.restart_clock()
        self._waits.restart_clock()

    def add(self, steps: Iterable[Step]) -> None:
        """Count steps; what they say of the losses is read later."""
        self._pending.extend(steps)

    def flush(self, at: Position) -> None:
        """Add the losses of all steps so far to the position's. Raises CheckFailed for one that is not a number."""
        self._pending.flush(at)

    def end_epoch(self, at: Position) -> None:
        """`flush`, and count the epoch's time."""
        self.flush(at)
        self._waits.end_epoch()

    def report(self, at: Position, learner: Learner, folder: RunFolder) -> str:
        """Log the means since the epoch began; gives them as text for the progress bar."""
        self.flush(at)
        waiting = self._waits.share()
        means, speed, lr = at.means(), self._pending.images_per_second(), learner.rate
        event = {
            "epoch": at.epoch + 1, "step": at.total_steps, **means, "lr": lr,
            "images_per_s": round(speed, 1), "waiting_for_data": round(waiting, 4),
        }  # fmt: skip
        folder.log("train", event)
        if self._section.use_visualdl:
            folder.scalars({**{f"train/{k}": v for k, v in means.items()}, "train/lr": lr}, at.total_steps)
        # The terms of a loss go to the log alone.
        shown = {name: value for name, value in means.items() if name == "loss" or not name.lower().endswith("loss")}
        return f"epoch {at.epoch + 1}/{self._length.epochs}  {values_text(shown)}  {speed:.1f} images/s "
