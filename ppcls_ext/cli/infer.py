"""`pplcnet infer`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppcls_ext.cli.arguments import (
    FIRST_OF_PREFERRED,
    THREADS_DEFAULT,
    add_config_arguments,
    batch,
    engine_names,
    path,
    positive,
    read_config,
    share,
    threads,
)
from ppcls_ext.core.bounds import LARGEST_BATCH, MAX_PIXELS, mapping, whole
from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import shown
from ppcls_ext.deploy.shard import Shard, read_shard

if TYPE_CHECKING:
    from ppcls_ext.runtime.pipeline import Pipeline
    from ppcls_ext.runtime.processing import Decode

# Flags that belong to the postprocessing of a task; the task itself refuses those that it does not have.
TASK_FLAGS = ("topk", "threshold")
STREAMED = ("csv", "jsonl", "parquet")  # what is written as the results come
DEFAULT_DECODE: Decode = "exact"  # the default of `Predictor`

NAME = "infer"
HELP = "predict on image files"
DESCRIPTION = (
    "Predict on image files with an exported model (-m), or with the weights of a run folder (-c). "
    "Files that cannot be read are named and skipped, in csv, jsonl and parquet with a row that says why; the exit "
    "status is then 2."
)
EXAMPLES = (
    "pplcnet infer -m output/my_images/inference -i photo.jpg 'more/*.jpg' --topk 3",
    "pplcnet infer -m output/my_coco/inference -i photos/ --threshold 0.4 --format csv --save boxes.csv --resume",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("exported model")
    group.add_argument(
        "-m", "--model", type=path, metavar="FOLDER", help="run the model that export wrote to this folder"
    )
    group.add_argument(
        "--engine", metavar="ENGINE", help=f"run it on {engine_names()}, with -m (default: {FIRST_OF_PREFERRED})"
    )
    group.add_argument(
        "--allow-reduced",
        action="store_true",
        help="run an --engine of bf16 or int8 also where the export has not accepted it",
    )
    group.add_argument(
        "--decode",
        choices=("exact", "scaled"),
        metavar="HOW",
        help="decode images exactly as evaluation does (exact), or large JPEGs at 1/2, 1/4 or 1/8, which is faster and "
        f"gives slightly other pixels (scaled); with -m (default: {DEFAULT_DECODE})",
    )
    group.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="skip an image whose header states more than N pixels, before it is decoded; with -m (default: "
        f"{MAX_PIXELS})",
    )
    add_config_arguments(parser, required=False)
    group = parser.add_argument_group("input")
    group.add_argument(
        "-i", "--images", nargs="+", default=[], metavar="IMAGE", help="predict on these files, folders or globs"
    )
    group.add_argument("--threads", type=threads, metavar="N", help=f"use N CPU threads (default: {THREADS_DEFAULT})")
    group.add_argument(
        "--batch", type=batch, metavar="N", help="run N images at once (default: Infer.batch_size of a config, or 1)"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--topk", type=positive, metavar="N", help="show the N likeliest classes of each image (classification)"
    )
    group.add_argument("--threshold", type=share, metavar="SCORE", help="show boxes of at least this score (detection)")
    group.add_argument(
        "--format",
        default="table",
        metavar="FORMAT",
        help="write the results as table, json, csv, jsonl or parquet, and of detection also as coco; csv, jsonl and "
        "parquet are written as the results come, for any number of images (default: %(default)s)",
    )
    group.add_argument(
        "--save",
        type=path,
        metavar="FILE",
        help="write the results, unless as a table, to this file instead of to stdout",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the interrupted run whose csv, jsonl or parquet is at --save, or begin it (with -m)",
    )
    group.add_argument("--draw", type=path, metavar="FOLDER", help="write pictures of the results to this folder")
    group = parser.add_argument_group("many processes")
    group.add_argument(
        "--shard", metavar="I/N", help="predict on share I of N of the images, the same on every machine"
    )
    group.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="predict with Ray Data on every core of this machine, or of the cluster at ADDRESS, and write --format "
        "parquet into the folder --save, a file a block (with -m; --threads are of each process, 1 unless given)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict; gives the exit status."""
    _check(arguments)
    config = _config(arguments) if arguments.config else None
    section = mapping(config.get("Infer"), "Infer") if config is not None else {}
    images = arguments.images or _listed(section.get("infer_imgs"))
    if not images:
        raise UserError("infer needs images: files, folders or globs after -i")
    given = {name: getattr(arguments, name) for name in TASK_FLAGS}
    options = {name: value for name, value in given.items() if value is not None}
    batch = arguments.batch or whole(section.get("batch_size") or 1, "Infer.batch_size", 1, LARGEST_BATCH)
    shard = None if arguments.shard is None else read_shard(arguments.shard)
    if arguments.ray is not None:
        failed = _with_ray(arguments, images, options, batch, shard)
    else:
        from ppcls_ext.deploy.infer import Output, images_of, infer

        output = Output(arguments.format, arguments.save, arguments.draw, arguments.resume)
        output.check(_task(arguments, config))
        paths = images_of(images, shard)
        with _opened(arguments, config, options, batch) as pipeline:
            failed = infer(paths, pipeline, output, options, shard)
    return UserError.exit_status if failed else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError for flags that do not go together."""
    if bool(arguments.model) == bool(arguments.config):
        raise UserError("infer needs either an exported folder (-m FOLDER) or a config or run folder (-c ...)")
    if arguments.ray is not None and not (arguments.model and arguments.save and arguments.format == "parquet"):
        raise UserError(
            "infer --ray writes a folder of an exported model's (-m) results: --format parquet --save FOLDER"
        )
    if arguments.save is not None and arguments.format == "table":
        raise UserError("infer --save writes what programs read: add --format json, csv, jsonl, parquet or coco")
    if arguments.format == "parquet" and arguments.save is None:
        raise UserError("infer --format parquet needs a file: add --save FILE")
    if arguments.resume and (arguments.save is None or arguments.format not in STREAMED or arguments.config):
        raise UserError(
            "infer --resume goes on with what an exported model (-m) wrote to --save FILE as --format csv, jsonl or "
            "parquet"
        )
    if arguments.config and arguments.engine is not None:
        raise UserError("infer --engine runs exported models: use it with -m; with -c the weights are run by dygraph")
    if arguments.ray is not None and arguments.draw is not None:
        raise UserError("infer --draw: not with --ray; draw those that you want to see without it")
    if arguments.allow_reduced and arguments.engine is None:
        raise UserError("infer --allow-reduced concerns an engine that you name: add --engine")
    if arguments.config and arguments.decode is not None:
        raise UserError("infer --decode is of exported models: use it with -m; with -c images are decoded exactly")
    if arguments.config and arguments.max_pixels is not None:
        raise UserError(f"infer --max-pixels is of exported models: use it with -m; with -c it is {MAX_PIXELS}")
    if arguments.model and arguments.override:
        raise UserError("infer -o changes a config: use it with -c; an exported model (-m) is fixed")


def _with_ray(
    arguments: argparse.Namespace, images: list[str], options: Mapping[str, Any], batch: int, shard: Shard | None
) -> int:
    from ppcls_ext.deploy.ray_data import RayRun, infer_with_ray

    predictor = {**_predictor(arguments, batch), "threads": arguments.threads or 1}
    run = RayRun(arguments.model, arguments.ray, arguments.save, predictor, options, arguments.resume)
    return infer_with_ray(images, run, shard)


def _predictor(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Keyword arguments of the `Predictor` of an exported model."""
    return {
        "engine": arguments.engine,
        "threads": arguments.threads,
        "batch": batch,
        "decode": arguments.decode or DEFAULT_DECODE,
        "max_pixels": arguments.max_pixels or MAX_PIXELS,
        "allow_reduced": arguments.allow_reduced,
    }


def _task(arguments: argparse.Namespace, config: Config | None) -> str:
    """The name of the task of what predicts."""
    if config is not None:
        return config.global_section.task
    from ppcls_ext.runtime.exported import read_exported

    return read_exported(arguments.model).task


def _config(arguments: argparse.Namespace) -> Config:
    threads = [] if arguments.threads is None else [f"Global.threads={arguments.threads}"]
    return read_config(arguments.config, [*arguments.override, *threads])


def _listed(images: Any) -> list[str]:
    """`Infer.infer_imgs`: a path or a list of them. Raises UserError for anything else."""
    paths = [] if images is None else images if isinstance(images, list) else [images]
    if not all(isinstance(path, str) for path in paths):
        raise UserError(f"Infer.infer_imgs: expected a path or a list of them, got {shown(images)}")
    return paths


def _opened(arguments: argparse.Namespace, config: Config | None, options: Mapping[str, Any], batch: int) -> Pipeline:
    """What predicts: an exported model on an engine, or weights in dygraph."""
    if config is not None:
        from ppcls_ext.deploy.weights import open_weights

        return open_weights(config, options, batch)
    from ppcls_ext.deploy.infer import open_exported

    resumed = arguments.save if arguments.resume else None
    return open_exported(arguments.model, options, _predictor(arguments, batch), resumed)
