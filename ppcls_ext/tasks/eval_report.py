"""What `evaluate` of every task leaves in a run's `eval/`: metrics, a table of the classes, a confusion matrix."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.display import UNDEFINED
from ppcls_ext.core.files import atomic_write, atomic_write_text
from ppcls_ext.core.text import is_digits, one_line

PER_CLASS = "per_class.csv"
CONFUSION = "confusion.csv"
LONGEST_NAME = 60  # characters; a picture shows no more of a class's name
SHOWN_CLASSES = 60  # a matrix of more classes is drawn without names
COUNTED_CLASSES = 20  # a matrix of more classes has no numbers in its cells


def write_metrics(
    folder: Path,
    images: int,
    metrics: Mapping[str, float],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Write metrics.json and per_class.csv.

    Args:
        images: how many were evaluated.
        columns, rows: the table of the classes; NaN where a class has no value, as no IoU if it is nowhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[UNDEFINED if value != value else value for value in row] for row in rows]
    atomic_write_text(folder / "metrics.json", json.dumps({"images": images, **metrics}, indent=1) + "\n")
    atomic_write_text(folder / PER_CLASS, csv_text([columns, *rows]))


def read_per_class(folder: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the per_class.csv in `folder`; but for the first column, the class, numbers are numbers."""
    with open(folder / PER_CLASS, encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    return columns, [[name, *map(_value, values)] for name, *values in rows]


def _value(text: str) -> int | float:
    if text == UNDEFINED:
        return float("nan")
    return int(text) if is_digits(text) else float(text)


def write_confusion(folder: Path, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Write confusion.csv and confusion.png of int [classes, classes]; rows are true, columns predicted."""
    rows = [[name, *map(int, row)] for name, row in zip(names, counts, strict=True)]
    atomic_write_text(folder / CONFUSION, csv_text([["true \\ predicted", *names], *rows]))
    _draw_confusion(folder / "confusion.png", counts, names, title)


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw the matrix, each row as shares of its true class."""
    from matplotlib.figure import Figure

    matrix = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    count = len(names)
    size = float(np.clip(2.5 + 0.45 * count, 5, 14))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if count <= SHOWN_CLASSES:
        shown = [one_line(name, LONGEST_NAME) for name in names]
        # Without parse_math, a $ in a name starts no formula.
        axes.set_xticks(range(count), shown, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(count), shown, parse_math=False)
    if count <= COUNTED_CLASSES:
        # Counts of images fit a cell; those of pixels run into millions, so cells show percent instead.
        large = counts.max(initial=0) >= 100_000
        for i, j in np.argwhere(counts):
            text = f"{matrix[i, j]:.1%}" if large else counts[i, j]
            axes.text(j, i, text, ha="center", va="center", color="white" if matrix[i, j] > 0.5 else "black")
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
