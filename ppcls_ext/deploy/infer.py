"""Predict on image files. With an exported model this imports no training framework."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ppcls_ext.core.display import bar, out, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text, regular_target
from ppcls_ext.core.images import find_images, named_images
from ppcls_ext.core.pictures import require_pillow
from ppcls_ext.core.text import one_line
from ppcls_ext.deploy.encoders import ENCODERS
from ppcls_ext.deploy.results_file import ResultsFile, Sink, StandardOutput
from ppcls_ext.deploy.shard import Shard
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import read_exported, sha256
from ppcls_ext.runtime.inference import check_options
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.results import Result

MOST_NAMED = 20  # stderr names no more images without a result; a file of results names all of them


def check_infer_flags(task: str, options: Iterable[str]) -> None:
    """Raise UserError for a flag of `infer` that the task does not have."""
    try:
        check_options(task, options, "--{}")
    except UserError as error:
        raise UserError(f"infer {error}") from error


def open_exported(folder: Path, options: Mapping[str, Any], predictor: Mapping[str, Any]) -> Pipeline:
    """Predicts with an exported folder.

    Args:
        options: of the postprocessing.
        predictor: further keyword arguments of `Predictor`.
    Raises:
        UserError: see `Predictor`.
    """
    check_infer_flags(read_exported(folder).task, options)
    return Predictor(folder, errors="keep", **predictor, **options)


def results_of(paths: Sequence[str], pipeline: Pipeline, skipped: list[str]) -> Iterator[Result]:
    """The result of each image that can be read; the others go to `skipped`, and are named on stderr."""
    for result in pipeline.stream(paths):
        if result.error is None:
            yield result
        else:
            say(f"skipped: {result.error}")
            skipped.append(result.source)


def images_of(images: Sequence[str], shard: Shard | None) -> list[str]:
    """The images that files, folders and globs name, or those of them that are in a share.

    Raises:
        UserError: something that names no image.
    """
    if shard is None:
        return find_images(images)
    found, total = [], 0
    for path, name in named_images(images):
        total += 1
        if shard.has(name):
            found.append(path)
    say(f"shard {shard}: {len(found)} of {total} images")
    return found


def infer(
    images: Sequence[str],
    pipeline: Pipeline,
    form: str = "table",
    save: Path | None = None,
    draw: Path | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
) -> int:
    """Predict and print or write results; gives the number of images that have none.

    csv, jsonl and parquet are written as the results come and take any number of images; the other forms hold all
    results until the last one is there.

    Args:
        images: files, folders, globs.
        form: table, json, csv, jsonl or parquet, and what else the task writes.
        save: write there instead of to stdout (all but table).
        draw: a folder for pictures of the results.
        resume: go on with the interrupted run that `save` is of.
        options: of the postprocessing; a run is resumed with the same only.
        shard: the share of the images to predict on; a run is resumed with the same only.
    Raises:
        UserError: nothing to predict on; a file that cannot be written; nothing that can be resumed.
    """
    inference = pipeline.inference
    if form not in inference.forms:
        raise UserError(f"infer --format {form}: this task writes {', '.join(inference.forms)}")
    if save is not None:
        regular_target(save)  # before hours of predicting
    if draw is not None:
        require_pillow()
    paths = images_of(images, shard)
    if draw is not None and shard is not None:
        draw = draw / f"shard-{shard.index}-of-{shard.count}"  # each share numbers its pictures from 1
    if form not in ENCODERS:
        return _infer_small(paths, pipeline, form, save, draw)
    encoder = ENCODERS[form](inference)
    if save is None:
        return _infer_bulk(paths, pipeline, StandardOutput(encoder), draw)
    run = None
    if isinstance(pipeline, Predictor):
        run = {"shard": _text(shard), "format": form, **identity(paths, pipeline, options or {})}
    failed = _infer_bulk(paths, pipeline, ResultsFile(save, encoder, run, resume), draw)
    say(f"results: {save}")
    return failed


def _text(shard: Shard | None) -> str | None:
    return None if shard is None else str(shard)


def identity(paths: Sequence[str], predictor: Predictor, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a run depend on, JSON-able."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(f"{path}\0{os.path.abspath(path)}\0"))
    exported = predictor.exported
    recipe = {key: value for key, value in exported.recipe.items() if key != "checksums"}
    files = exported.checksums or {
        name: sha256(exported.folder / name)
        for kind in exported.formats
        for name in FORMATS[kind]
        if (exported.folder / name).is_file()
    }
    model = hashlib.sha256(json.dumps([recipe, dict(files)], sort_keys=True, default=str).encode())
    return {
        "options": dict(options),
        "decode": predictor.decode,
        "engine": predictor.engine,
        "model": model.hexdigest(),
        "images": len(paths),
        "list of images": digest.hexdigest(),
    }


def _infer_bulk(paths: Sequence[str], pipeline: Pipeline, sink: Sink, draw: Path | None) -> int:
    """Hand each result on as it comes; gives the number of images without one."""
    start, begun = sink.done, time.monotonic()
    if start:
        say(f"going on after {start} of {len(paths)} images")
    named = 0
    try:
        with bar(len(paths), "infer", start) as progress:
            for number, result in enumerate(pipeline.stream(islice(paths, start, None)), start=start + 1):
                sink.write(result)
                if not result.ok and named < MOST_NAMED:
                    named += 1
                    say(f"skipped: {result.error}")
                if draw is not None and result.ok:
                    _draw(result, draw, number)
                rate = (number - start) / max(time.monotonic() - begun, 1e-9)
                progress.advance(values=f"{rate:.1f} images/s")
        sink.finish()
    finally:
        sink.close()
    _say_choice(pipeline)
    if sink.failed > named:
        say(f"skipped: {sink.failed} of {len(paths)} images in all; the column error says why")
    return sink.failed


def _say_choice(pipeline: Pipeline) -> None:
    """Name on stderr the engine that `auto` has taken, and why."""
    if isinstance(pipeline, Predictor) and pipeline.chosen is not None:
        say(f"auto: {pipeline.chosen.summary}")


def _draw(result: Result, folder: Path, number: int) -> None:
    """Write the pictures of a result, named after its image and the image's number in the list."""
    result.write_pictures(folder, f"{number:04d}_{Path(result.source).stem}")


def _infer_small(paths: Sequence[str], pipeline: Pipeline, form: str, save: Path | None, draw: Path | None) -> int:
    """Gather all results, and make a table or a document of them; gives the number of images without one."""
    inference = pipeline.inference
    skipped: list[str] = []
    results: list[Result] = []
    with bar(len(paths), "infer") as progress:
        for result in results_of(paths, pipeline, skipped):
            results.append(result)
            if draw is not None:
                _draw(result, draw, len(results) + len(skipped))
            progress.advance()
    _say_choice(pipeline)
    if form == "table":
        if results:
            _show(results, inference.columns)
        return len(skipped)
    text = json.dumps(inference.document(form, results), indent=1, ensure_ascii=False) + "\n"
    if save is None:
        sys.stdout.write(text)
    else:
        atomic_write_text(save, text)
        say(f"results: {save}")
    return len(skipped)


def _show(results: Sequence[Result], columns: Sequence[str]) -> None:
    """Results as a table on stdout, with the folder that all images are in above it."""
    rows = [(result.source, *row) for result in results for row in result.rows()]
    folder = _common_folder([result.source for result in results])
    shown = [(os.path.relpath(path, folder) if folder else path, *values) for path, *values in rows]
    if folder:
        out.print(f"images in {one_line(folder)}", markup=False)
    show_table(None, ("image", *columns), shown)
    without = len(results) - len({path for path, *_ in rows})
    if without:
        say(f"nothing found in {without} of {len(results)} images")


def _common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all of them, with which a table need not begin each line; "" if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no paths, or absolute and relative ones
        return ""
