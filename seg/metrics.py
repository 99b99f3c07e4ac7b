"""IoU, Dice and accuracy from one matrix of counted pixels, and the files that show them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.checkpoint import atomic_write_text
from ppcls_ext.classification_metrics import csv_text, draw_confusion
from ppcls_ext.errors import UserError
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

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        """Count class maps of the same shape; `labels` may hold `IGNORE`."""
        classes = len(self.matrix)
        counted = labels != IGNORE
        places = labels[counted].astype(np.int64) * classes + predicted[counted]
        self.matrix += np.bincount(places, minlength=classes * classes).reshape(classes, classes)

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
        return dict(zip(METRICS, (mean_iou, mean_dice, correct, mean_accuracy), strict=True))


def per_class_rows(confusion: PixelConfusion, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of `PER_CLASS_COLUMNS`; undefined values are '-'."""
    values = confusion.per_class()
    rows = []
    for k, name in enumerate(names):
        shares = [float(v[k]) if np.isfinite(v[k]) else "-" for v in values.values()]
        rows.append((name, int(confusion.matrix[k].sum()), int(confusion.matrix[:, k].sum()), *shares))
    return rows


def write_report(folder: Path, confusion: PixelConfusion, names: Sequence[str], images: int) -> None:
    """Write metrics.json, per_class.csv, confusion.csv (pixels) and confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = confusion.metrics()
    atomic_write_text(folder / "metrics.json", json.dumps({"images": images, **metrics}, indent=1) + "\n")
    atomic_write_text(folder / "per_class.csv", csv_text([PER_CLASS_COLUMNS, *per_class_rows(confusion, names)]))
    counts = [[name, *map(int, row)] for name, row in zip(names, confusion.matrix, strict=True)]
    atomic_write_text(folder / "confusion.csv", csv_text([["true \\ predicted", *names], *counts]))
    title = f"mIoU {metrics['mIoU']:.2%} of {images} images (share of the true class's pixels)"
    draw_confusion(folder / "confusion.png", confusion.matrix, names, title)


def read_per_class(folder: Path) -> list[Sequence[Any]]:
    """The rows of per_class.csv in `folder`, with their numbers as numbers."""
    with open(folder / "per_class.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(r[0], int(r[1]), int(r[2]), *(v if v == "-" else float(v) for v in r[3:])) for r in rows]
