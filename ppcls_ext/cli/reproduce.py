"""`pplcnet reproduce`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.arguments import engine_names, names, not_negative, path, positive, refuse, threads, wholes
from ppcls_ext.core.device import set_threads
from ppcls_ext.paper.tables import NUMBERS

ENGINES_MEASURED = ("onednn", "openvino")

NAME = "reproduce"
HELP = "measure the paper's tables on this machine, and set both side by side"
DESCRIPTION = (
    "Build the network of every row of the paper's tables, count, export and time it, take accuracies from run "
    "folders, and write a report with the paper's values beside this machine's, as HTML, Markdown and JSON. "
    "It needs neither data nor weights."
)
EXAMPLES = (
    "pplcnet reproduce --resume --minutes 8 --engines onednn,openvino --out mine",
    "pplcnet reproduce --today --engines onednn,openvino --out mine",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--tables",
        type=wholes,
        metavar="N,N",
        help=f"measure these tables (default: all, {NUMBERS[0]} to {NUMBERS[-1]})",
    )
    group.add_argument(
        "--engines",
        type=names,
        default=ENGINES_MEASURED,
        metavar="ENGINE,ENGINE",
        help=f"measure on these engines: {engine_names(auto=False)} (default: {','.join(ENGINES_MEASURED)})",
    )
    group.add_argument(
        "--threads",
        type=threads,
        default=1,
        metavar="N",
        help="run every network with N threads (default: %(default)s)",
    )
    group.add_argument(
        "--runs", type=path, nargs="+", default=[], metavar="FOLDER", help="take accuracies from these run folders"
    )
    group.add_argument(
        "--today",
        action="store_true",
        help="instead of the tables, measure later light networks beside PP-LCNet; adds to what --out has",
    )
    group.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="run each network in N processes, one after the other (default: "
        f"{Settings.model_fields['processes'].default}); fewer take less time, and repeat less well",
    )
    group.add_argument(
        "--minutes",
        type=not_negative,
        metavar="N",
        help="begin no benchmark that would probably end later than N minutes after the start; with --resume, the same "
        "command then measures the others. 0: build the networks and measure nothing",
    )
    group.add_argument("--quick", action="store_true", help="make too few calls to rely on, but go all the way")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=path,
        default=Path("output/tables"),
        metavar="FOLDER",
        help="write the report to this folder (default: %(default)s)",
    )
    group.add_argument(
        "--work",
        type=path,
        default=Path("output/reproduce"),
        metavar="FOLDER",
        help="export the networks to this folder, where a later run finds them (default: %(default)s)",
    )
    group.add_argument(
        "--resume", action="store_true", help="keep what an earlier run left in --out, and measure what is missing"
    )
    group.add_argument(
        "--compare",
        type=path,
        metavar="FOLDER",
        help="measure nothing: compare the ratios in --out with those of a second run, whose --out this is, and add "
        "to the report which do not agree",
    )
    group.add_argument("--render", action="store_true", help="only write the report again, from the values in --out")


def run(arguments: argparse.Namespace) -> int:
    """Measure or render; gives the exit status."""
    set_threads(arguments.threads)
    from ppcls_ext.paper.reproduce import ReproductionPlan, add_second_run, render, reproduce

    if arguments.today:
        refuse(arguments, ("tables", "runs"), "--today measures other networks than those of the tables")
    if arguments.render:
        render(arguments.out)
        return 0
    if arguments.compare is not None:
        add_second_run(arguments.out, arguments.compare)
        return 0
    plan = ReproductionPlan(
        tables=tuple(NUMBERS) if arguments.tables is None else arguments.tables,
        engines=arguments.engines,
        threads=arguments.threads,
        out=arguments.out,
        work=arguments.work,
        runs=tuple(arguments.runs),
        quick=arguments.quick,
        resume=arguments.resume,
        processes=arguments.processes,
        minutes=arguments.minutes,
    )
    if arguments.today:
        from ppcls_ext.paper.today import reproduce_today

        reproduce_today(plan)
    else:
        reproduce(plan)
    return 0
