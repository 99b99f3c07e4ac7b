"""IoU, Dice and accuracy from one matrix of counted pixels, and the files that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.tasks.eval_report import write_confusion, write_metrics
from seg.sections import IGNORE

METRICS = ("mIoU", "mDice", "accuracy", "mAccuracy")  # accuracy: of pixels; mAccuracy: mean over classes
PER_CLASS_COLUMNS = ("class", "pixels", "predicted", "IoU", "Dice", "accuracy", "precision")


class PixelConfusion:
    """Counts of pixels over an evaluation split; ignored pixels are left out.

    Attributes:
        matrix: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
    """

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes), np.int64)

    @classmethod
    def total(cls, parts: Sequence[PixelConfusion]) -> PixelConfusion:
        """The counts of several parts of the split together."""
        whole = cls(len(parts[0].matrix))
        for part in parts:
            whole.matrix += part.matrix
        return whole

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        """Count class maps of the same shape; `labels` may hold `IGNORE`."""
        classes = len(self.matrix)
        counted = labels != IGNORE
        cells = labels[counted].astype(np.int64) * classes + predicted[counted]
        self.matrix += np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    def per_class(self) -> dict[str, np.ndarray]:
        """IoU, Dice, accuracy (share of the class's pixels that are found) and precision, float64 [classes].

        NaN where undefined: a class that is neither there nor predicted has no IoU, and does not count in a mean.
        """
        hit = np.diag(self.matrix).astype(np.float64)
        true, predicted = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return {
                "IoU": hit / (true + predicted - hit),
                "Dice": 2 * hit / (true + predicted),
                "accuracy": hit / true,
                "precision": hit / predicted,
            }

    def metrics(self) -> dict[str, float]:
        """The values of `METRICS`.

        Raises:
            UserError: every pixel was ignored.
        """
        total = int(self.matrix.sum())
        if not total:
            raise UserError("DataLoader.Eval: every pixel of its masks is ignored, so there is nothing to evaluate")
        values = self.per_class()
        correct = float(np.trace(self.matrix)) / total
        mean_iou, mean_dice, mean_accuracy = (float(np.nanmean(values[name])) for name in ("IoU", "Dice", "accuracy"))
        return {"mIoU": mean_iou, "mDice": mean_dice, "accuracy": correct, "mAccuracy": mean_accuracy}


def per_class_rows(confusion: PixelConfusion, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of `PER_CLASS_COLUMNS`."""
    true, predicted = confusion.matrix.sum(axis=1), confusion.matrix.sum(axis=0)
    columns = (true, predicted, *confusion.per_class().values())
    return [(name, *(column[k].item() for column in columns)) for k, name in enumerate(names)]


def write_report(folder: Path, confusion: PixelConfusion, names: Sequence[str], images: int) -> None:
    """Write metrics.json, per_class.csv, confusion.csv (pixels) and confusion.png."""
    metrics = confusion.metrics()
    write_metrics(folder, images, metrics, PER_CLASS_COLUMNS, per_class_rows(confusion, names))
    title = f"mIoU {metrics['mIoU']:.2%} of {images} images (share of the true class's pixels)"
    write_confusion(folder, confusion.matrix, names, title)
