"""Top-k accuracy and the confusion matrix, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.checkpoint import atomic_write, atomic_write_text

TOP = 5
SHOWN_CLASSES = 60  # a matrix of more classes is drawn without names


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
        """`top1`, `top5` (only where there are more than 5 classes; else it is 1 by definition), `loss`."""
        total = max(self.images, 1)
        metrics = {"top1": float(np.trace(self.matrix)) / total}
        if len(self.matrix) > TOP:
            metrics["top5"] = self.in_top / total
        return {**metrics, "loss": self.loss / total}

    def per_class(self) -> list[tuple[int, int, float, float, float]]:
        """For each class: images, images predicted as it, recall, precision, F1 (0 where undefined)."""
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
    return [(name, *row) for name, row in zip(names, confusion.per_class(), strict=True)]


def write_report(folder: Path, confusion: Confusion, names: Sequence[str]) -> None:
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"images": confusion.images, **confusion.metrics()}
    atomic_write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    atomic_write_text(folder / "per_class.csv", csv_text([PER_CLASS_COLUMNS, *per_class_table(confusion, names)]))
    counts = [[name, *map(int, row)] for name, row in zip(names, confusion.matrix, strict=True)]
    atomic_write_text(folder / "confusion.csv", csv_text([["true \\ predicted", *names], *counts]))
    title = f"top-1 {confusion.metrics()['top1']:.2%} of {confusion.images} images"
    draw_confusion(folder / "confusion.png", confusion.matrix, names, title)


def read_per_class(folder: Path) -> list[Sequence[Any]]:
    """The rows of per_class.csv in `folder`, with their numbers as numbers."""
    with open(folder / "per_class.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(r[0], int(r[1]), int(r[2]), *map(float, r[3:])) for r in rows]


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw a matrix (rows are true, columns predicted), each row as shares of its true class."""
    from matplotlib.figure import Figure

    matrix = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    count = len(names)
    size = float(np.clip(2.5 + 0.45 * count, 5, 14))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if count <= SHOWN_CLASSES:
        axes.set_xticks(range(count), names, rotation=45, ha="right")
        axes.set_yticks(range(count), names)
    if count <= 20:
        # Counts that fit a cell; pixels come by the million and are shown in percent.
        large = counts.max(initial=0) >= 100_000
        for i, j in np.argwhere(counts):
            text = f"{matrix[i, j]:.1%}" if large else counts[i, j]
            axes.text(j, i, text, ha="center", va="center", color="white" if matrix[i, j] > 0.5 else "black")
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
