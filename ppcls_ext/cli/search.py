"""`pplcnet search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcls_ext.cli.arguments import DEFAULT_ENGINE, engine_names, path, threads
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.display import out
from ppcls_ext.core.errors import UserError

NAME = "search"
HELP = "learn what networks cost on this CPU, with an engine and a number of threads"
DESCRIPTION = (
    "With --calibrate: time probes of single blocks and whole networks of a space on an engine, interleaved, fit a "
    "latency model to them, and judge it by networks that it has not seen. It takes 10 to 20 minutes for an engine and "
    "goes on where it was stopped. `pplcnet advise` uses what it leaves."
)
EXAMPLES = (
    "pplcnet search --calibrate --engine onednn",
    "pplcnet search --calibrate --engine onnxruntime --threads 2 --out mine",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("what is measured")
    group.add_argument("--calibrate", action="store_true", help="measure, and fit a latency model")
    group.add_argument(
        "--engine",
        default=DEFAULT_ENGINE,
        metavar="ENGINE",
        help=f"run them on {engine_names(auto=False)} (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="run them with N threads (default: %(default)s)"
    )
    group.add_argument(
        "--space", default="lcnet", metavar="SPACE", help="take networks from this space (default: %(default)s)"
    )
    group.add_argument("--quick", action="store_true", help="measure too little to rely on, but go all the way")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--calibration",
        type=path,
        metavar="FILE",
        help="keep the measurements in this file (default: a file of the user's cache folder, where advise looks)",
    )
    group.add_argument(
        "--out",
        type=path,
        default=Path("output/search"),
        metavar="FOLDER",
        help="write the report with its pictures to this folder (default: %(default)s)",
    )
    group.add_argument(
        "--work",
        type=path,
        default=Path("output/search/networks"),
        metavar="FOLDER",
        help="export the networks to this folder, where a later run finds them (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate; gives the exit status."""
    if not arguments.calibrate:
        raise UserError("say what to do: --calibrate measures networks and fits a latency model")
    set_threads(arguments.threads)
    from ppcls_ext.search.advise import calibration_file
    from ppcls_ext.search.calibrate import Plan, calibrate, check_accuracy
    from ppcls_ext.search.report import write_report
    from ppcls_ext.search.space import space_named

    space = space_named(arguments.space)
    default = calibration_file(arguments.engine, arguments.threads, space.name)
    file = arguments.calibration or default
    plan = Plan(space, arguments.engine, arguments.threads, file, arguments.work, arguments.quick)
    found = calibrate(plan)
    out.print(f"{write_report(found, arguments.out)}: the report; {file}: the calibration", markup=False)
    check_accuracy(found, file)
    return 0
