"""`pplcnet advise`."""

from __future__ import annotations

import argparse

from ppcls_ext.cli.arguments import path, positive_number, threads
from ppcls_ext.core.config import load_config
from ppcls_ext.core.display import out, say, show_table
from ppcls_ext.core.errors import UserError

NAME = "advise"
HELP = "say which scale, input size and engine fit a latency on this CPU"
DESCRIPTION = (
    "Predict, by the latency models that `pplcnet search --calibrate` has left for this machine, which scale of "
    "PP-LCNet at which input size on which engine takes no longer than --latency. It measures nothing."
)
EXAMPLES = (
    "pplcnet advise --latency 2.0",
    "pplcnet advise -m output/my_images --latency 1.5 --threads 2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("what is asked")
    group.add_argument("-m", "--model", metavar="CONFIG", help="ask about the network of this config or run folder")
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


def run(arguments: argparse.Namespace) -> int:
    """Predict and show; gives the exit status."""
    from ppcls_ext.search.advise import advise, asked_about
    from ppcls_ext.search.calibrations import own_calibrations

    asked = None if arguments.model is None else asked_about(load_config(arguments.model))
    spec = None if asked is None else asked.spec
    advice = advise(own_calibrations(arguments.threads, arguments.calibration, spec=spec), arguments.latency, asked)
    for doubt in [*([asked.note] if asked is not None and asked.note else []), *advice.doubts]:
        say(f"warning: {doubt}")
    if asked is not None:
        for engine, ms in advice.own.items():
            fits = "fits" if ms <= arguments.latency else f"more than {arguments.latency:g} ms"
            say(f"{arguments.model} at {asked.side} px on {engine}: {ms:.2f} ms, {fits}")
    if advice.best is None:
        least = advice.fastest
        nothing = (
            f"--latency {arguments.latency:g}: no scale is so fast; the fastest is {least.arch} at "
            f"{least.input_size} px on {least.engine} with {least.ms:.2f} ms"
        )
        if not any(ms <= arguments.latency for ms in advice.own.values()):
            raise UserError(nothing)
        say(nothing)  # one's own network is
        return 0
    rows = [[way.arch, way.input_size, way.engine, way.ms] for way in advice.options]
    title = f"at most {arguments.latency:g} ms, {arguments.threads} thread{'s' * (arguments.threads != 1)}, predicted"
    show_table(title, ["network", "size", "engine", "ms"], rows)
    best = advice.best
    out.print(f"{best.arch} at {best.input_size} px on {best.engine}: {best.ms:.2f} ms predicted", markup=False)
    return 0
