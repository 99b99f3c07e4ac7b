"""Evaluations between the epochs of a training, and the weights that are kept by them."""

from __future__ import annotations

import math

from ppcls_ext.core import distributed
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.models.weights import save_weights
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.learner import Learner
from ppcls_ext.training.position import Position, diverged


class Evaluations:
    """Evaluates as often as `Global` says, and writes the last weights and the best.

    Attributes:
        loader: of the images to evaluate on; None where a run has no evaluation.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.loader = task.eval_loader() if task.global_section.eval_during_train else None

    def after_epoch(self, at: Position, learner: Learner, folder: RunFolder, finished: bool) -> dict[str, float]:
        """Evaluate where it is due, and write weights; gives the metrics, if any.

        Args:
            finished: no epoch follows.
        Raises:
            CheckFailed: a metric is not a number; no weights are written then.
        """
        if self.loader is not None and (at.epoch % self._task.global_section.eval_interval == 0 or finished):
            return self._evaluate(at, learner, folder, finished)
        if finished and distributed.is_main():
            save_weights(folder.last, learner.weights())
        return {}

    def _evaluate(self, at: Position, learner: Learner, folder: RunFolder, finished: bool) -> dict[str, float]:
        section, main = self._task.global_section, distributed.is_main()
        last = finished or (section.early_stop is not None and at.stale + 1 >= section.early_stop)  # it may be
        with learner.averaged():
            metrics = self._task.evaluate(learner.model, lambda _: None, folder.eval if last and main else None)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise diverged(name, value, f"in the evaluation after epoch {at.epoch}")
        if main:
            save_weights(folder.last, learner.weights())
        if at.rank(metrics[self._task.primary], section.early_stop) and main:
            save_weights(folder.best, learner.weights())
        folder.log("eval", {"epoch": at.epoch, "step": at.total_steps, **metrics})
        if section.use_visualdl:
            folder.scalars({f"eval/{k}": v for k, v in metrics.items()}, at.total_steps)
        return metrics
