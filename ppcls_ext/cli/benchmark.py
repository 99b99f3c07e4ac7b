"""`pplcnet benchmark`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.arguments import (
    DEFAULT_ENGINE,
    batch,
    core,
    engine_names,
    path,
    positive,
    real,
    seed,
    threads,
    up_to,
)
from ppcls_ext.core.config import parse
from ppcls_ext.core.errors import UserError

# Flags with the names of the settings that they set; a flag that is not given leaves the setting's own default.
SETTINGS = ("rounds", "processes", "seconds", "iterations", "warmup", "seed", "pin", "spread")

UNTRAINED = Path("output/networks")  # where networks of --network are built

NAME = "benchmark"
HELP = "measure how fast exported models run on this machine"
DESCRIPTION = (
    "Time exported models on the engines. Every model on every engine runs in processes of its own, and all of them "
    "take turns in short rounds, so that a machine that slows down slows all alike. Ratios are to the first row, with "
    "a 95 % interval."
)
EXAMPLES = (
    "pplcnet benchmark -m output/my_images/inference --engine native onednn openvino --json now.json",
    "pplcnet benchmark -m A/inference B/inference --compare then.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    _add_subject_flags(parser.add_argument_group("what is measured"))
    _add_measuring_flags(parser.add_argument_group("how it is measured"))
    group = parser.add_argument_group("output")
    group.add_argument("--profile", action="store_true", help="show the time of each operator, too")
    group.add_argument(
        "--soak",
        type=positive,
        metavar="N",
        help="also run N calls (1000 or more) at one size and N at many sizes, and fail if memory, open files or "
        "threads keep growing",
    )
    group.add_argument("--json", type=path, metavar="FILE", help="write all figures to this file, as JSON")
    group.add_argument("--compare", type=path, metavar="FILE", help="show what changed since --json wrote this file")


def _add_subject_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-m", "--model", nargs="+", type=path, default=[], metavar="FOLDER", help="time these exported models"
    )
    group.add_argument(
        "--network",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="time these classification networks, untrained: names of Arch, or texts such as 'stem16 | ds-c32 | ...'; "
        f"they are built in {UNTRAINED}",
    )
    group.add_argument(
        "--engine",
        nargs="+",
        metavar="ENGINE",
        help=f"run them on these engines: {engine_names()} (default: {DEFAULT_ENGINE}; "
        "with --end-to-end each that can)",
    )
    group.add_argument(
        "--threads",
        nargs="+",
        type=threads,
        default=[1],
        metavar="N",
        help="run every model with N threads (default: 1)",
    )
    group.add_argument(
        "--batch",
        nargs="+",
        type=batch,
        default=[1],
        metavar="N",
        help="run every model on N images a call (default: 1)",
    )
    group.add_argument(
        "--size",
        nargs=2,
        type=positive,
        metavar=("HEIGHT", "WIDTH"),
        help="give inputs this size, where the model does not fix it",
    )
    group.add_argument(
        "--end-to-end",
        action="store_true",
        help="time all of the way from an image file to its result, beside a script with OpenCV and ONNX Runtime and "
        "PaddleClas's own predictor",
    )
    group.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="use these files, folders or globs with --end-to-end (default: JPEGs of 500x375 and 4000x3000 are drawn)",
    )
    group.add_argument(
        "--streams",
        type=up_to(256),
        default=1,
        metavar="N",
        help="run N predictors at once, to measure throughput (default: %(default)s)",
    )


def _add_measuring_flags(group: argparse._ArgumentGroup) -> None:
    def default(name: str) -> str:
        return f"(default: {Settings.model_fields[name].default:g})"

    group.add_argument(
        "--rounds", type=positive, metavar="N", help=f"let each row take N turns in all {default('rounds')}"
    )
    group.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help=f"run each row in N processes, one after the other, which share its rounds {default('processes')}",
    )
    group.add_argument(
        "--seconds",
        type=real,
        metavar="SECONDS",
        help=f"measure each row for this many seconds in all {default('seconds')}",
    )
    group.add_argument(
        "--iterations", type=positive, metavar="N", help="measure N calls of each row, instead of --seconds"
    )
    group.add_argument(
        "--warmup", type=positive, metavar="N", help=f"make N calls before measuring {default('warmup')}"
    )
    group.add_argument(
        "--seed", type=seed, metavar="N", help=f"draw the inputs and the order from this seed {default('seed')}"
    )
    group.add_argument(
        "--pin", nargs="+", type=core, metavar="CORE", help="bind every process to these cores (default: any core)"
    )
    group.add_argument(
        "--spread",
        type=real,
        metavar="SHARE",
        help=f"warn where the interquartile range is more than this share of the median {default('spread')}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure; gives the exit status."""
    if arguments.iterations is not None and arguments.seconds is not None:
        raise UserError("benchmark takes either --iterations or --seconds")
    if not arguments.model and not arguments.network:
        raise UserError("nothing to time; give exported folders with -m, or names of networks with --network")
    # Only building a network imports Paddle here: every model runs in a process of its own, which sets its own threads.
    from ppcls_ext.bench.command import benchmark, subjects_from

    given: dict[str, Any] = {name: getattr(arguments, name) for name in SETTINGS}
    settings = parse(Settings, {name: value for name, value in given.items() if value is not None}, "benchmark")
    if arguments.end_to_end:
        return _end_to_end(arguments, settings)
    if arguments.images:
        raise UserError("benchmark --images is for --end-to-end; without it, models run on random inputs")
    size = tuple(arguments.size) if arguments.size else None
    subjects = subjects_from(
        [*arguments.model, *_untrained(arguments.network)],
        arguments.engine or [DEFAULT_ENGINE],
        arguments.threads,
        arguments.batch,
        size,
        arguments.streams,
    )
    benchmark(subjects, settings, arguments.json, arguments.compare, arguments.profile, arguments.soak)
    return 0


def _untrained(networks: Sequence[str]) -> list[Path]:
    if not networks:
        return []
    from ppcls_ext.bench.named import export_untrained

    return [export_untrained(network, UNTRAINED) for network in networks]


def _end_to_end(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.network:
        raise UserError("benchmark --end-to-end takes exported folders (-m), not --network")
    others = [name for name in ("size", "profile", "soak", "compare") if getattr(arguments, name)]
    others += [name for name in ("threads", "batch") if getattr(arguments, name) != [1]]
    if others or arguments.streams != 1:
        raise UserError(f"benchmark --end-to-end does not take --{(others or ['streams'])[0]}")
    from ppcls_ext.bench.end_to_end import end_to_end

    end_to_end(arguments.model, arguments.engine or [], arguments.images or [], settings, arguments.json)
    return 0
