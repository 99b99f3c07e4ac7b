"""`pplcnet advise`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ppcls_ext.cli.arguments import add_override_argument, given, path, positive_number, threads
from ppcls_ext.core.config import load_config
from ppcls_ext.core.display import out, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import counted
from ppcls_ext.paper.tables import table

if TYPE_CHECKING:
    from ppcls_ext.search.advise import Advice, Asked, Option

NAME = "advise"
HELP = "say which scale, input size and engine fit a latency on this CPU"
DESCRIPTION = (
    "Predict, by the latency models that `pplcnet search --calibrate` has left for this machine, which scale of "
    "PP-LCNet at which input size on which engine takes no longer than --latency. It measures nothing."
)
EXAMPLES = (
    "pplcnet advise --latency 2.0",
    'pplcnet advise -m output/my_images -o "Global.image_shape=[3,96,96]" --latency 1.5 --threads 2',
)
SCALES_TABLE = 2  # of the paper, with the accuracy of each scale at the size below
PAPER_TOP1 = "paper's top-1 at 224 px"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("what is asked")
    group.add_argument(
        "-m", "--model", type=given, metavar="CONFIG", help="ask about the network of this config or run folder"
    )
    add_override_argument(group, "Global.image_shape=[3,96,96]")
    group.add_argument(
        "--latency", type=positive_number, required=True, metavar="MS", help="milliseconds that an image may take"
    )
    group.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="threads of the CPU (default: %(default)s)"
    )
    group = parser.add_argument_group("what is known")
    group.add_argument(
        "--calibration",
        type=path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="use these calibrations (default: all that were made on this machine)",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the answer as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Predict and show; gives the exit status."""
    from ppcls_ext.search.advise import advise, asked_about
    from ppcls_ext.search.calibrations import own_calibrations

    if arguments.override and arguments.model is None:
        raise UserError("-o changes the config that -m names: give -m CONFIG too")
    asked = None if arguments.model is None else asked_about(load_config(arguments.model, arguments.override))
    spec = None if asked is None else asked.spec
    advice = advise(own_calibrations(arguments.threads, arguments.calibration, spec=spec), arguments.latency, asked)
    warnings = [*([asked.note] if asked is not None and asked.note else []), *advice.doubts]
    for warning in warnings:
        say(f"warning: {warning}")
    if asked is not None:
        _say_own(arguments, advice, asked)
    if arguments.json:
        out.print_json(json.dumps(_answer(advice, warnings)))
    if advice.best is None:
        _say_nothing_fits(arguments.latency, advice)
    elif not arguments.json:
        _show_options(arguments, advice, advice.best)
    return 0


def _say_own(arguments: argparse.Namespace, advice: Advice, asked: Asked) -> None:
    """Whether the network fits that was asked about."""
    for engine, ms in advice.own.items():
        fits = "fits" if ms <= arguments.latency else f"more than {arguments.latency:g} ms"
        say(f"{arguments.model} at {asked.side} px on {engine}: {ms:.2f} ms, {fits}")


def _say_nothing_fits(latency: float, advice: Advice) -> None:
    """Name the fastest scale. Raises UserError unless one's own network is fast enough."""
    least = advice.fastest
    nothing = (
        f"--latency {latency:g}: no scale is so fast; the fastest is {least.arch} at "
        f"{least.input_size} px on {least.engine} with {least.ms:.2f} ms"
    )
    if not any(ms <= latency for ms in advice.own.values()):
        raise UserError(nothing)
    say(nothing)


def _show_options(arguments: argparse.Namespace, advice: Advice, best: Option) -> None:
    known = _paper_top1()
    rows = [
        [way.arch, way.input_size, way.engine, way.ms, f"{known[way.arch]:.2f} %" if way.arch in known else "unknown"]
        for way in advice.options
    ]
    title = f"at most {arguments.latency:g} ms, {counted(arguments.threads, 'thread')}, predicted"
    show_table(title, ["network", "size", "engine", "ms", PAPER_TOP1], rows)
    out.print(f"{best.arch} at {best.input_size} px on {best.engine}: {best.ms:.2f} ms predicted", markup=False)


def _paper_top1() -> dict[str, float]:
    """Percent of ImageNet's images that the paper says a network gets right, trained without a teacher."""
    rows = table(SCALES_TABLE).rows
    return {row.arch: row.top1 for row in rows if row.arch and row.top1 is not None and not row.distilled}


def _answer(advice: Advice, warnings: list[str]) -> dict[str, Any]:
    """The advice, JSON-able; latencies are milliseconds."""
    known = _paper_top1()

    def described(way: Option) -> dict[str, Any]:
        return {
            "network": way.arch,
            "input_size": way.input_size,
            "engine": way.engine,
            "ms": way.ms,
            "paper_top1": known.get(way.arch),
        }

    return {
        "own": dict(advice.own),
        "options": [described(way) for way in advice.options],
        "best": None if advice.best is None else described(advice.best),
        "fastest": described(advice.fastest),
        "warnings": warnings,
    }
