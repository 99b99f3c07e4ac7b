"""Two networks on the same images: the difference of their accuracies, with an interval that knows of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from ppcls_ext.core.config import LAST_WEIGHTS, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import derive
from ppcls_ext.tasks.finding import make_task

BOOTSTRAP = 10_000
PAIRS = 1_303  # the stream of random numbers


class Paired(NamedTuple):
    """A difference in percent with a 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """As a cell of a table."""
        return f"{self.difference:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def right_answers(run: Path) -> np.ndarray:
    """Which images of the evaluation split a trained classifier gets right, in order: bool [images].

    Raises:
        UserError: a run folder of another task, or without weights.
    """
    task = make_task(load_config(run))
    if task.name != "classification":
        raise UserError(f"{run}: answers are counted of classification, not {task.name}")
    model = task.made_fast(task.build_model())
    task.load_trained(model, str(run / LAST_WEIGHTS))
    model.eval()
    with paddle.no_grad():
        found = [
            model(images).numpy().argmax(1) == labels.numpy()[:, 0] for images, labels in task.eval_loader().epoch()
        ]
    return np.concatenate(found)


def paired_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Paired:
    """By how many percent of the images `ours` is right more often, over the runs of both.

    The interval is of a bootstrap over seeds and images: what is drawn comes with the answers of both networks.

    Args:
        ours, theirs: `right_answers` of each run, of the same seeds in the same order, and of the same images.
    """
    rng = np.random.default_rng(derive(0, PAIRS))
    differences = np.array(ours, np.float64) - np.array(theirs, np.float64)
    seeds, images = differences.shape
    draws = np.empty(BOOTSTRAP)
    for k in range(BOOTSTRAP):
        drawn = differences[rng.integers(seeds, size=seeds)].mean(axis=0)
        draws[k] = drawn[rng.integers(images, size=images)].mean()
    low, high = np.percentile(draws, [2.5, 97.5])
    return Paired(*(100 * float(value) for value in (differences.mean(), low, high)))
