"""How good a network is, by images that were held out from training; the same images for all, so that they compare."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from ppcls_ext.data.kept import KeptBatches
from ppcls_ext.models.norms import batch_norms
from ppcls_ext.tasks.task import Task

NORM_IMAGES = 256  # the batch norms of a network that was cut out take their statistics from these
JUDGED_IMAGES = 2000  # no more are used: they are kept in memory, and every network sees all of them


class Quality(NamedTuple):
    """How good a network is; both from 0 to 1.

    Attributes:
        expected: mean score of the right class. It is the top-1 accuracy of guessing by the scores, and of a few
            hundred images it tells networks apart where top-1, a count, is the same for many.
        top1: share of images whose largest score is that of the right class.
    """

    expected: float
    top1: float


class Judge:
    """Judges networks of a classification task on its evaluation split.

    Raises:
        UserError: wrong data, on first use.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    @functools.cached_property
    def _held_out(self) -> KeptBatches:
        return KeptBatches(self._task.eval_loader(), JUDGED_IMAGES)

    @functools.cached_property
    def _training(self) -> KeptBatches:
        return KeptBatches(self._task.train_loader(), NORM_IMAGES)

    def quality(self, network: nn.Layer, own_statistics: bool = False) -> Quality:
        """The quality of a network, which is left in eval mode; 0 of one that gives anything but numbers.

        Args:
            own_statistics: its batch norms have some; otherwise they are taken from training images first.
        """
        self._task.keep_memory()
        with paddle.no_grad():
            if not own_statistics:
                give_statistics(network, (images for images, *_ in self._training))
            network.eval()
            scores, right = [], []
            for images, of_images in self._held_out:
                found, labels = functional.softmax(network(images), axis=-1).numpy(), of_images.numpy()[:, 0]
                scores.append(found[np.arange(len(labels)), labels])
                right.append(found.argmax(-1) == labels)
        expected = float(np.concatenate(scores).mean())
        if not math.isfinite(expected):
            return Quality(0.0, 0.0)
        return Quality(expected, float(np.concatenate(right).mean()))


def give_statistics(network: nn.Layer, batches: Iterable[paddle.Tensor]) -> None:
    """Let every batch norm have the mean statistics over some batches, float32 [N, 3, H, W] each."""
    norms = batch_norms(network)
    kept = [norm._momentum for norm in norms]
    network.train()
    for number, batch in enumerate(batches):
        for norm in norms:
            norm._momentum = number / (number + 1)  # so that what it gathers is the mean
        network(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm._momentum = momentum
