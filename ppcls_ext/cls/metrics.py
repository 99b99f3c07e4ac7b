"""Top-k accuracy and the confusion matrix, and the files that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.tasks.eval_report import write_confusion, write_metrics

TOP = 5
METRICS = ("top1", "top5", "loss")


class Confusion:
    """Counts over an evaluation split, exact for any batch size.

    Attributes:
        matrix: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
    """

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes), np.int64)
        self.in_top = 0
        self.loss = 0.0

    @classmethod
    def total(cls, parts: Sequence[Confusion]) -> Confusion:
        """The counts of several parts of the split together."""
        whole = cls(len(parts[0].matrix))
        for part in parts:
            whole.matrix += part.matrix
            whole.in_top += part.in_top
            whole.loss += part.loss
        return whole

    @property
    def images(self) -> int:
        """How many images have been counted."""
        return int(self.matrix.sum())

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch: float [N, classes], int [N]."""
        # Stable order: of equal scores the lower class number wins, for every batch size.
        order = np.argsort(-logits, axis=1, kind="stable")
        np.add.at(self.matrix, (labels, order[:, 0]), 1)
        self.in_top += int((order[:, :TOP] == labels[:, None]).sum())
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        self.loss += float((log_sum - shifted[np.arange(len(labels)), labels]).sum())

    def metrics(self) -> dict[str, float]:
        """The values of `METRICS`; `top5` only with more than 5 classes, since else it is 1 by definition."""
        total = max(self.images, 1)
        metrics = {"top1": float(np.trace(self.matrix)) / total}
        if len(self.matrix) > TOP:
            metrics["top5"] = self.in_top / total
        return {**metrics, "loss": self.loss / total}

    def per_class(self) -> list[tuple[int, int, float, float, float]]:
        """A row for each class: images, images predicted as it, recall, precision, F1 (0 where undefined)."""
        rows = []
        for k in range(len(self.matrix)):
            true, predicted, hit = int(self.matrix[k].sum()), int(self.matrix[:, k].sum()), int(self.matrix[k, k])
            recall = hit / true if true else 0.0
            precision = hit / predicted if predicted else 0.0
            f1 = 2 * hit / (true + predicted) if true + predicted else 0.0
            rows.append((true, predicted, recall, precision, f1))
        return rows


PER_CLASS_COLUMNS = ("class", "images", "predicted", "recall", "precision", "f1")


def per_class_table(confusion: Confusion, names: Sequence[str]) -> list[tuple[str, int, int, float, float, float]]:
    """Rows of `PER_CLASS_COLUMNS`."""
    return [(name, *row) for name, row in zip(names, confusion.per_class(), strict=True)]


def write_report(folder: Path, confusion: Confusion, names: Sequence[str]) -> None:
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png."""
    metrics = confusion.metrics()
    write_metrics(folder, confusion.images, metrics, PER_CLASS_COLUMNS, per_class_table(confusion, names))
    title = f"top-1 {metrics['top1']:.2%} of {confusion.images} images"
    write_confusion(folder, confusion.matrix, names, title)
