"""`pplcnet search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcls_ext.cli.arguments import (
    DEFAULT_ENGINE,
    add_config_arguments,
    engine_names,
    given,
    listed,
    path,
    positive,
    positive_number,
    read_config,
    refuse,
    threads,
    up_to,
)
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.display import out, say
from ppcls_ext.core.errors import UserError
from ppcls_ext.search.wish import ACCURACIES, SPACE, Wish

NAME = "search"
HELP = "find the network for this CPU, engine and latency, on your own images"
DESCRIPTION = (
    "With --calibrate: time probes of single blocks and whole networks of a space on an engine, interleaved, fit a "
    "latency model to them, and judge it by networks that it has not seen. It takes about 15 minutes for an engine, "
    "longer in the larger space `cpu`, and goes on where it was stopped. `pplcnet advise` uses what it leaves. "
    "With -c and --latency or --like: look for the most accurate network of the space that the model says is fast "
    "enough, by a supernet that is trained on a part of the config's training images and judges networks by the rest; "
    "measure what it finds, and write a config that `pplcnet train` takes. The same command goes on after a stop."
)
EXAMPLES = (
    "pplcnet search --calibrate --engine onednn",
    "pplcnet search -c my_images -o Global.data_root=FOLDER --like PPLCNet_x0_5 --engine onednn --epochs 30",
)
CALIBRATING, SEARCHING = Path("output/search"), Path("output/search/found")
WORK = CALIBRATING / "networks"
OF_CALIBRATING = ("quick", "work")
OF_SEARCHING = ("config", "override", "latency", "like", "accuracy", "epochs", "candidates", "supernet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_config_arguments(parser, required=False)
    group = parser.add_argument_group("what is looked for")
    group.add_argument(
        "--latency", type=positive_number, metavar="MS", help="a network that takes at most so many milliseconds"
    )
    group.add_argument(
        "--like", type=given, metavar="NETWORK", help="a network as fast as this one, such as PPLCNet_x0_5"
    )
    group.add_argument(
        "--accuracy",
        choices=ACCURACIES,
        metavar="HOW",
        help=f"judge networks by {listed(ACCURACIES)}, in this order of trust (default: {ACCURACIES[0]})",
    )
    group.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="train the supernet, or each network, for so long (default: that of the config)",
    )
    group.add_argument(
        "--candidates",
        type=up_to(100_000),
        metavar="N",
        help="judge about so many networks (default: 400, or 24 by short)",
    )
    group.add_argument(
        "--supernet", type=path, metavar="FOLDER", help="use the supernet of an earlier search, which wrote this folder"
    )
    group = parser.add_argument_group("what is measured")
    group.add_argument("--calibrate", action="store_true", help="measure, and fit a latency model")
    group.add_argument(
        "--engine",
        default=DEFAULT_ENGINE,
        metavar="ENGINE",
        help=f"run them on {engine_names(auto=False)} (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="run each with N threads (default: %(default)s)"
    )
    group.add_argument(
        "--space", default=SPACE, metavar="SPACE", help="take networks from this space (default: %(default)s)"
    )
    group.add_argument("--quick", action="store_true", help="with --calibrate, measure too little to rely on")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--calibration",
        type=path,
        metavar="FILE",
        help="keep the measurements in this file, or search by it (default: one in the user's cache folder)",
    )
    group.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help=f"write the report with its pictures to this folder (default: {CALIBRATING}, for a search {SEARCHING})",
    )
    group.add_argument(
        "--work",
        type=path,
        metavar="FOLDER",
        help=f"with --calibrate, export the networks to this folder for later runs (default: {WORK})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate or search; gives the exit status."""
    if arguments.calibrate:
        refuse(arguments, OF_SEARCHING, "--calibrate measures networks for every later search")
        return _calibrate(arguments)
    if arguments.config is None:
        raise UserError(
            "say what to do: --calibrate measures networks, -c CONFIG with --latency or --like searches one"
        )
    refuse(arguments, OF_CALIBRATING, "only --calibrate has a use for it")
    if (arguments.latency is None) == (arguments.like is None):
        raise UserError("give either --latency MS or --like NETWORK, which the network has to be as fast as")
    how = arguments.accuracy or ACCURACIES[0]
    if how != "supernet":
        refuse(arguments, ("supernet",), f"--accuracy {how} has no use for one")
    if how == "scores":
        refuse(arguments, ("epochs",), "--accuracy scores trains nothing")
    if arguments.supernet is not None:
        refuse(arguments, ("epochs",), "the supernet of --supernet is trained already")
    return _search(arguments)


def _calibrate(arguments: argparse.Namespace) -> int:
    set_threads(arguments.threads)
    from ppcls_ext.search.calibrate import CalibrationPlan, calibrate, check_accuracy
    from ppcls_ext.search.calibrations import calibration_file
    from ppcls_ext.search.report import write_report
    from ppcls_ext.search.space import space_named

    space = space_named(arguments.space)
    default = calibration_file(arguments.engine, arguments.threads, space.name, arguments.quick)
    file = arguments.calibration or default
    for folder in (arguments.out or CALIBRATING, arguments.work or WORK, file.parent):
        _make_folder(folder)
    plan = CalibrationPlan(space, arguments.engine, arguments.threads, file, arguments.work or WORK, arguments.quick)
    found = calibrate(plan)
    page = write_report(found, arguments.out or CALIBRATING)
    out.print(f"{page}: the report; {file}: the calibration", markup=False)
    if arguments.quick:
        say(f"warning: {found.doubt}")
    else:
        check_accuracy(found, file)
    return 0


def _make_folder(folder: Path) -> None:
    """Make a folder now, and not only when there is something to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"search: {folder}: {error.strerror}; give another folder") from error


def _search(arguments: argparse.Namespace) -> int:
    read_config(arguments.config, arguments.override)  # sets the threads, before Paddle is imported
    from ppcls_ext.search.find import find
    from ppcls_ext.training.interrupts import Stopped

    wish = Wish(
        config=arguments.config,
        overrides=tuple(arguments.override),
        latency=arguments.latency,
        like=arguments.like,
        engine=arguments.engine,
        threads=arguments.threads,
        space=arguments.space,
        accuracy=arguments.accuracy or ACCURACIES[0],
        epochs=arguments.epochs,
        candidates=arguments.candidates,
        calibration=arguments.calibration,
        supernet=arguments.supernet,
        out=arguments.out or SEARCHING,
    )
    try:
        find(wish)
    except Stopped as stopped:
        return stopped.exit_status
    return 0
