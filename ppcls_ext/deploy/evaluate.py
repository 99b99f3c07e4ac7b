"""Evaluate the weights of a config or run folder."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
from paddle import nn

from ppcls_ext.core.config import Config
from ppcls_ext.core.display import bar, out, say, show_table
from ppcls_ext.core.expect import verify
from ppcls_ext.core.images import check_images
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.deploy.frozen import engines_of, on_engine
from ppcls_ext.deploy.infer import results_of
from ppcls_ext.deploy.trained import build_with_weights
from ppcls_ext.deploy.weights import open_deployment
from ppcls_ext.runtime.choice import FIRST, PADDLE
from ppcls_ext.runtime.results import picture_name
from ppcls_ext.tasks.eval_report import read_per_class
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task

SHOWN_ROWS = 100  # per-class tables longer than this are only written
# So many images win back the two seconds in which an engine is opened and checked: it takes about 1.5 ms less for one
# of PPLCNet_x0_5 at 224 px (docs/training.md), and more for larger networks.
ENGINE_PAYS = 2000


def evaluate(
    config: Config,
    folder: Path | None = None,
    as_json: bool = False,
    draw: Path | None = None,
    engine: str | None = None,
) -> dict[str, float]:
    """Evaluate, show metrics and the per-class table, and write the report.

    Args:
        folder: where the report goes; default: `eval/` in the run folder.
        as_json: print the metrics as JSON on stdout instead of tables.
        draw: a folder for pictures of the results, one for each image.
        engine: of the runtime, which runs the network if its outputs equal Paddle's, `FIRST` or `PADDLE`; default:
            `FIRST` on a CPU for at least `ENGINE_PAYS` images, else `PADDLE`.
    Raises:
        UserError: bad config, data, weights or engine. CheckFailed: a result other than `Expect` states.
    """
    if engine is not None:
        engines_of(engine)  # a wrong one is refused before anything is read
    task = make_task(config)
    model = build_with_weights(task, "eval")
    folder = folder or RunFolder.of(config).eval
    loader = task.eval_loader()
    check_images(task.image_paths("Eval"), 0.0, task.global_section.seed)
    images = len(loader.dataset)
    model = _fastest(task, model, engine, images)
    with bar(images, "eval") as progress:
        metrics = task.evaluate(model, progress.advance, folder)
    if as_json:
        out.print_json(json.dumps({"images": images, **metrics}))
    else:
        columns, rows = read_per_class(folder)
        if len(rows) <= SHOWN_ROWS:
            show_table("per class", columns, rows)
        show_table(f"{images} images", ("metric", "value"), list(metrics.items()))
    say(f"report: {folder}")
    if draw is not None:
        draw_results(task, model, draw)
    for line in verify(config.get("Expect"), metrics, images):
        say(line)
    return metrics


def _fastest(task: Task, model: nn.Layer, engine: str | None, images: int) -> nn.Layer:
    """The network on an engine, or with our kernels where none is to run it."""
    if engine is None:
        engine = FIRST if images >= ENGINE_PAYS and paddle.get_device() == "cpu" else PADDLE
    network, _ = on_engine(model, task.evaluated_shape, engine, "eval", say)
    if network is not model:
        return network
    task.keep_memory()
    return task.made_fast(model)


def draw_results(task: Task, model: nn.Layer, folder: Path) -> None:
    """Write what `infer --draw` writes for every image of the evaluation split."""
    paths = task.image_paths("Eval")
    with open_deployment(task, task.drawn(model), {}) as pipeline, bar(len(paths), "draw") as progress:
        for number, result in enumerate(results_of(paths, pipeline, []), start=1):
            result.write_pictures(folder, picture_name(number, result.source))
            progress.advance()
    say(f"pictures: {folder}")
