"""Two networks on the same images: the difference of their accuracies, with an interval that knows of the pairs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from ppcls_ext.core.config import LAST_WEIGHTS, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import derive
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.distillation import digest_of_paths

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


class Answers(NamedTuple):
    """Which images of an evaluation split a classifier gets right.

    Attributes:
        right: bool [images], in the order of the split.
        images: a digest that another split has if it holds the same images with the same labels in the same order.
    """

    right: np.ndarray
    images: str


def right_answers(run: Path) -> Answers:
    """What a trained classifier gets right of its evaluation split.

    Raises:
        UserError: a run folder of another task, or without weights.
    """
    task = make_task(load_config(run))
    if task.name != "classification":
        raise UserError(f"{run}: answers are counted of classification, not {task.name}")
    task.keep_memory()
    model = task.made_fast(task.build_model())
    task.load_trained(model, str(run / LAST_WEIGHTS))
    model.eval()
    with paddle.no_grad():
        found = [
            (model(images).numpy().argmax(1), labels.numpy()[:, 0]) for images, labels in task.eval_loader().epoch()
        ]
    answers, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    return Answers(answers == labels, digest_of_images(task.image_paths("Eval"), labels))


def digest_of_images(paths: Sequence[str], labels: np.ndarray) -> str:
    """SHA-256 of the paths below their common folder, the sizes of the files and the labels, wherever the images lie.

    Sets of different images often have the same names, and then files of other sizes.
    """
    facts = [digest_of_paths(paths), [os.path.getsize(path) for path in paths], np.asarray(labels).tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def paired_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Paired:
    """By how many percent of the images `ours` is right more often, over the runs of both.

    The interval is of a bootstrap over seeds and images: what is drawn comes with the answers of both networks.

    Args:
        ours, theirs: `Answers.right` of each run, of the same seeds in the same order, and of the same images.
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
