"""Top-k accuracy and the confusion matrix, and the files that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.tasks.eval_report import CONFUSION, csv_text, write_confusion, write_metrics

TOP = 5
MOST_IN_MATRIX = 2000  # classes; the matrix of 2,000 is a file of 8 MB
METRICS = ("top1", "top5", "loss")


class Confusion:
    """Counts over an evaluation split, exact for any batch size.

    Only pairs of classes that occurred are held: of a hundred thousand classes a whole matrix would take 80 GB.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.pairs: Counter[tuple[int, int]] = Counter()  # (true, predicted): images
        self.in_top = 0
        self.loss = 0.0

    @classmethod
    def total(cls, parts: Sequence[Confusion]) -> Confusion:
        """The counts of several parts of the split together."""
        whole = cls(parts[0].classes)
        for part in parts:
            whole.pairs.update(part.pairs)
            whole.in_top += part.in_top
            whole.loss += part.loss
        return whole

    @property
    def images(self) -> int:
        """How many images have been counted."""
        return self.pairs.total()

    def matrix(self) -> np.ndarray:
        """int64 [classes, classes]; rows are the true classes, columns the predicted ones."""
        matrix = np.zeros((self.classes, self.classes), np.int64)
        for (true, predicted), count in self.pairs.items():
            matrix[true, predicted] = count
        return matrix

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch: float [N, classes], int [N]."""
        # Stable order: of equal scores the lower class number wins, for every batch size.
        order = np.argsort(-logits, axis=1, kind="stable")
        self.pairs.update(zip(labels.tolist(), order[:, 0].tolist(), strict=True))
        self.in_top += int((order[:, :TOP] == labels[:, None]).sum())
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        self.loss += float((log_sum - shifted[np.arange(len(labels)), labels]).sum())

    def metrics(self) -> dict[str, float]:
        """The values of `METRICS`; `top5` only with more than 5 classes, since else it is 1 by definition."""
        total = max(self.images, 1)
        metrics = {"top1": sum(count for (true, predicted), count in self.pairs.items() if true == predicted) / total}
        if self.classes > TOP:
            metrics["top5"] = self.in_top / total
        return {**metrics, "loss": self.loss / total}

    def per_class(self) -> list[tuple[int, int, float, float, float]]:
        """A row for each class: images, images predicted as it, recall, precision, F1 (0 where undefined)."""
        trues, predictions, hits = ([0] * self.classes for _ in range(3))
        for (true, predicted), count in self.pairs.items():
            trues[true] += count
            predictions[predicted] += count
            hits[true] += count if true == predicted else 0
        rows = []
        for true, predicted, hit in zip(trues, predictions, hits, strict=True):
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
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png.

    Of more than `MOST_IN_MATRIX` classes confusion.csv has a line for each pair that occurred, the most frequent first,
    and there is no picture.
    """
    metrics = confusion.metrics()
    write_metrics(folder, confusion.images, metrics, PER_CLASS_COLUMNS, per_class_table(confusion, names))
    title = f"top-1 {metrics['top1']:.2%} of {confusion.images} images"
    if confusion.classes <= MOST_IN_MATRIX:
        write_confusion(folder, confusion.matrix(), names, title)
        return
    pairs = sorted(confusion.pairs.items(), key=lambda item: (-item[1], item[0]))
    rows = [(names[true], names[predicted], count) for (true, predicted), count in pairs]
    atomic_write_text(folder / CONFUSION, csv_text([("true", "predicted", "images"), *rows]))
