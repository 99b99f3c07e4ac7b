"""Predict on image files. With an exported model this imports no training framework."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.core.display import bar, out, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.images import find_images
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.inference import check_options
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.results import Result


def check_infer_flags(task: str, options: Iterable[str]) -> None:
    """Raise UserError for a flag of `infer` that the task does not have."""
    try:
        check_options(task, options, "--{}")
    except UserError as error:
        raise UserError(f"infer {error}") from error


def open_exported(
    folder: Path, engine: str | None, threads: int | None, options: Mapping[str, Any], batch: int = 1
) -> Pipeline:
    """Predicts with an exported folder. Raises UserError: see `Predictor`."""
    check_infer_flags(read_exported(folder).task, options)
    return Predictor(folder, engine, threads=threads, batch=batch, errors="keep", **options)


def results_of(paths: Sequence[str], pipeline: Pipeline, skipped: list[str]) -> Iterator[Result]:
    """The result of each image that can be read; the others go to `skipped`, and are named on stderr."""
    for result in pipeline.stream(paths):
        if result.error is None:
            yield result
        else:
            say(f"skipped: {result.error}")
            skipped.append(result.source)


def infer(
    images: Sequence[str],
    pipeline: Pipeline,
    form: str = "table",
    save: Path | None = None,
    draw: Path | None = None,
) -> list[str]:
    """Predict and print or write results; gives the files that were skipped.

    Args:
        images: files, folders, globs.
        form: table, json or csv, and what else the task writes.
        save: write there instead of stdout (json and csv).
        draw: a folder for pictures of the results.
    """
    inference = pipeline.inference
    if form not in inference.forms:
        raise UserError(f"infer --format {form}: this task writes {', '.join(inference.forms)}")
    paths = find_images(images)
    skipped: list[str] = []
    results: list[Result] = []
    rows: list[tuple[Any, ...]] = []  # beginning with the path
    with bar(len(paths), "infer") as progress:
        for result in results_of(paths, pipeline, skipped):
            results.append(result)
            rows += [(result.source, *row) for row in result.rows()]
            if draw is not None:
                result.write_pictures(draw, f"{len(results):04d}_{Path(result.source).stem}")
            progress.advance()
    if isinstance(pipeline, Predictor) and pipeline.chosen is not None:
        say(f"auto: {pipeline.chosen.summary}")
    columns = ("image", *inference.columns)
    if form == "table":
        folder = _common_folder([result.source for result in results])
        shown = [(os.path.relpath(path, folder) if folder else path, *values) for path, *values in rows]
        if folder:
            out.print(f"images in {folder}", markup=False)
        show_table(None, columns, shown)
        without = len(results) - len({path for path, *_ in rows})
        if without:
            say(f"nothing found in {without} of {len(results)} images")
        return skipped
    if form == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([columns, *rows])
        text = buffer.getvalue()
    else:
        text = json.dumps(inference.document(form, results), indent=1, ensure_ascii=False) + "\n"
    if save is None:
        sys.stdout.write(text)
    else:
        atomic_write_text(save, text)
        say(f"results: {save}")
    return skipped


def _common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all of them, with which a table need not begin each line; "" if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no paths, or absolute and relative ones
        return ""
