"""Predict on image files, with an exported model or with the weights of a config or run folder."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.config import Config, read_yaml
from ppcls_ext.core.display import bar, out, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.images import BrokenImage, find_images, read_rgb
from ppcls_ext.core.registry import accepted_keys
from ppcls_ext.deploy.trained import build_with_weights, dygraph_outputs
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.tasks.finding import load_task, make_task
from ppcls_ext.tasks.task import Task

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def open_exported(folder: Path, engine: str, threads: int, options: Mapping[str, Any]) -> tuple[Run, Inference, int]:
    """A runner, the task's pre- and postprocessing, and the batch (-1: any) of an exported folder.

    Raises:
        UserError: not an exported folder, or an engine that cannot run it.
    """
    from ppcls_ext.deploy.export import RECIPE
    from ppcls_ext.runtime.engines import open_engine

    if not (folder / RECIPE).is_file():
        raise UserError(f"exported model {folder}: no {RECIPE} in it; give the folder that export wrote")
    recipe = read_yaml(folder / RECIPE)
    try:
        inference = _with_flags(load_task(recipe["task"]), recipe, options)
        batch = int(recipe["inputs"][0]["shape"][0])
    except (KeyError, TypeError) as error:
        raise UserError(f"exported model {folder / RECIPE}: not as export writes it ({error})") from error
    return open_engine(engine, folder, threads), inference, batch


def _with_flags(task: type[Task], recipe: Mapping[str, Any], options: Mapping[str, Any]) -> Inference:
    """What goes around the network. Raises UserError for a flag that the task does not have."""
    known = accepted_keys(task.inference) - {"recipe"}
    for name in options:
        if name not in known:
            has = f"; it has {', '.join(f'--{flag}' for flag in sorted(known))}" if known else ""
            raise UserError(f"infer --{name}: not a flag of {task.name}{has}")
    return task.inference(recipe, **options)


def open_weights(config: Config, options: Mapping[str, Any]) -> tuple[Run, Inference, int]:
    """The same for the weights of a config or run folder, run by dygraph."""
    task = make_task(config)
    deployment = task.deployment(build_with_weights(task, "infer"))
    deployment.model.eval()
    inference = _with_flags(type(task), deployment.recipe, options)
    return (lambda inputs: dygraph_outputs(deployment.model, inputs)), inference, deployment.inputs[0].shape[0]


def predict(
    paths: Sequence[str], run: Run, inference: Inference, batch: int, skipped: list[str]
) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Path, image and result of each image that can be read; the others go to `skipped`, and are named on stderr.

    Images are run in batches of `batch`, as long as their inputs have one shape.
    """
    group: list[tuple[str, np.ndarray, list[np.ndarray]]] = []

    def flush() -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        if group:
            inputs = [np.stack(arrays) for arrays in zip(*(prepared for _, _, prepared in group), strict=True)]
            missing = batch - len(group)
            if missing > 0:  # a fixed batch is filled up with the last image
                inputs = [np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for a in inputs]
            outputs = inference.split(run(inputs), len(group))
            for (path, image, _), own in zip(group, outputs, strict=True):
                yield path, image, inference.result(own, image)
            group.clear()

    for path in paths:
        try:
            image = read_rgb(path)
        except BrokenImage as error:
            say(f"skipped: {error}")
            skipped.append(path)
            continue
        prepared = inference.prepare(image)
        if group and [a.shape for a in group[0][2]] != [a.shape for a in prepared]:
            yield from flush()
        group.append((path, image, prepared))
        if len(group) >= abs(batch):
            yield from flush()
    yield from flush()


def infer(
    images: Sequence[str],
    opened: tuple[Run, Inference, int],
    batch: int = 1,
    form: str = "table",
    save: Path | None = None,
    draw: Path | None = None,
) -> list[str]:
    """Predict and print or write results; gives the files that were skipped.

    Args:
        images: files, folders, globs.
        batch: images at once, where the model leaves it free.
        form: table, json or csv.
        save: write there instead of stdout (json and csv).
        draw: a folder for pictures of the results.
    """
    run, inference, fixed = opened
    if form not in inference.forms:
        raise UserError(f"infer --format {form}: this task writes {', '.join(inference.forms)}")
    paths = find_images(images)
    skipped: list[str] = []
    results: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []  # beginning with the path
    with bar(len(paths), "infer") as progress:
        for path, image, result in predict(paths, run, inference, batch if fixed == -1 else fixed, skipped):
            results.append({"image": path, **result})
            rows += [(path, *row) for row in inference.rows(result)]
            if draw is not None:
                inference.write(draw, f"{len(results):04d}_{Path(path).stem}", image, result)
            progress.advance()
    columns = ("image", *inference.columns)
    if form == "table":
        folder = _common_folder([result["image"] for result in results])
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
