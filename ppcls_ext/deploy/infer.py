"""Predict on image files. With an exported model this imports no training framework."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ppcls_ext.core.bounds import MAX_PIXELS
from ppcls_ext.core.display import bar, out, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text, regular_target
from ppcls_ext.core.images import find_images, named_images
from ppcls_ext.core.pictures import require_pillow
from ppcls_ext.core.text import one_line
from ppcls_ext.deploy.encoders import ENCODERS
from ppcls_ext.deploy.results_file import (
    MODEL_FORMAT,
    ResultsFile,
    Sink,
    StandardOutput,
    check_unfinished,
    interrupted_run,
)
from ppcls_ext.deploy.shard import Shard
from ppcls_ext.runtime.choice import AUTO
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.engines.base import FLOAT, FORMATS
from ppcls_ext.runtime.exported import read_exported, sha256
from ppcls_ext.runtime.inference import check_options, load_inference
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.results import Result, picture_name

MOST_NAMED = 20  # stderr names no more images without a result; a file of results names all of them


def check_infer_flags(task: str, options: Iterable[str]) -> None:
    """Raise UserError for a flag of `infer` that the task does not have."""
    try:
        check_options(task, options, "--{}")
    except UserError as error:
        raise UserError(f"infer {error}") from error


@dataclass(frozen=True)
class Output:
    """Where results go, and as what.

    csv, jsonl and parquet are written as the results come and take any number of images; the other forms hold all
    results until the last one is there.

    Attributes:
        form: table, json, csv, jsonl or parquet, and what else the task writes.
        save: write there instead of to stdout (all but table).
        draw: a folder for pictures of the results.
        resume: go on with the interrupted run that `save` is of.
    """

    form: str = "table"
    save: Path | None = None
    draw: Path | None = None
    resume: bool = False

    def check(self, task: str) -> None:
        """Raise UserError for what cannot be written: before a network is opened, which may take long."""
        forms = load_inference(task).forms
        if self.form not in forms:
            raise UserError(f"infer --format {self.form}: this task writes {', '.join(forms)}")
        if self.save is not None:
            regular_target(self.save)
            if self.resume:
                check_unfinished(self.save)
        if self.draw is not None:
            require_pillow()
            there = next(place for place in (self.draw, *self.draw.absolute().parents) if place.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise UserError(f"infer --draw {self.draw}: {there} is no folder to write in; give another one")


def open_exported(
    folder: Path, options: Mapping[str, Any], predictor: Mapping[str, Any], resumed: Path | None = None
) -> Pipeline:
    """Predicts with an exported folder.

    Args:
        options: of the postprocessing.
        predictor: further keyword arguments of `Predictor`.
        resumed: the file of results whose interrupted run is gone on with.
    Raises:
        UserError: see `Predictor`.
    """
    check_infer_flags(read_exported(folder).task, options)
    if resumed is not None:
        predictor = as_begun(predictor, interrupted_run(resumed), resumed)
    return Predictor(folder, errors="keep", **predictor, **options)


def as_begun(predictor: Mapping[str, Any], run: Mapping[str, Any], results: Path) -> Mapping[str, Any]:
    """Keyword arguments of `Predictor` with which an interrupted run goes on: where it is to choose an engine, the one
    that the run was begun with, since today's choice may be another and all results are of one.

    Args:
        run: what its results depend on; nothing, where there is none.
        results: its file or folder, which errors name.
    Raises:
        UserError: an engine that is not installed or that `auto` never takes.
    """
    engine, model_format = run.get("engine"), run.get(MODEL_FORMAT)
    if predictor["engine"] != AUTO or engine in (None, AUTO):
        return predictor
    try:
        kind = engine_class(str(engine))
        kind.require()
    except UserError as error:
        raise UserError(f"{results} was begun with engine {engine}, with which auto goes on: {error}") from error
    if kind.precision != FLOAT:
        raise UserError(f"{results} was begun with engine {engine}, which auto never takes; name it with --engine")
    return {**predictor, "engine": engine, "model_format": model_format}


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
    paths: Sequence[str],
    pipeline: Pipeline,
    output: Output,
    options: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
) -> int:
    """Predict and print or write results; gives the number of images that have none.

    Args:
        paths: of the images.
        output: that was checked.
        options: of the postprocessing; a run is resumed with the same only.
        shard: the share of the images that `paths` are; a run is resumed with the same only.
    Raises:
        UserError: a file that cannot be written; nothing that can be resumed.
    """
    draw = output.draw
    if draw is not None and shard is not None:
        draw = draw / f"shard-{shard.index}-of-{shard.count}"  # each share numbers its pictures from 1
    if output.form not in ENCODERS:
        return _infer_small(paths, pipeline, output.form, output.save, draw)
    encoder = ENCODERS[output.form](pipeline.inference)
    if output.save is None:
        return _infer_bulk(paths, pipeline, StandardOutput(encoder), draw)
    run = None
    if isinstance(pipeline, Predictor):
        fixed = {"shard": _text(shard), "format": output.form, **identity(paths, pipeline, options or {})}
        run = partial(_noted, fixed, pipeline)
    failed = _infer_bulk(paths, pipeline, ResultsFile(output.save, encoder, run, output.resume), draw)
    say(f"results: {output.save}")
    return failed


def _noted(run: Mapping[str, Any], predictor: Predictor) -> Mapping[str, Any]:
    """What results depend on, with the engine as it is known now."""
    return {**run, **_engine_of(predictor)}


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
        "max_pixels": None if predictor.max_pixels == MAX_PIXELS else predictor.max_pixels,
        **_engine_of(predictor),
        "model": model.hexdigest(),
        "images": len(paths),
        "list of images": digest.hexdigest(),
    }


def _engine_of(predictor: Predictor) -> dict[str, Any]:
    return {"engine": predictor.engine, MODEL_FORMAT: predictor.model_format}


def _infer_bulk(paths: Sequence[str], pipeline: Pipeline, sink: Sink, draw: Path | None) -> int:
    """Hand each result on as it comes; gives the number of images without one."""
    start = sink.done
    if start:
        say(f"going on after {start} of {len(paths)} images")
    named = 0
    try:
        results = pipeline.stream(islice(paths, start, None))
        first = list(islice(results, 1))  # for which an engine may be chosen yet, which is no part of the pace
        begun = time.monotonic()
        with bar(len(paths), "infer", start) as progress:
            for number, result in enumerate(chain(first, results), start=start + 1):
                if draw is not None and result.ok:  # before it counts as done, so that no picture is lost by a crash
                    _draw(result, draw, number)
                sink.write(result)
                if not result.ok and named < MOST_NAMED:
                    named += 1
                    say(f"skipped: {result.error}")
                rate = (number - start - 1) / max(time.monotonic() - begun, 1e-9)
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
    result.write_pictures(folder, picture_name(number, result.source))


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
    document = json.dumps(inference.document(form, results), indent=1, ensure_ascii=False) + "\n"
    text = document.encode("utf-8", "backslashreplace").decode()  # an escape of JSON for a byte that is no UTF-8
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
