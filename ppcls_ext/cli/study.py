"""`pplcnet study`."""

from __future__ import annotations

import argparse

from ppcls_ext.cli.arguments import add_config_arguments, path, seed
from ppcls_ext.core.config import shipped_studies
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.text import is_digits

NAME = "study"
HELP = "train variants of a config with several seeds, and compare them in a table"
DESCRIPTION = (
    "Train every variant of a study with several seeds, and write one table with mean, spread and significance. "
    "A study that was stopped goes on where it was when the same command is given again."
)
EXAMPLES = (
    "pplcnet study -c studies/table6 --base my_images -o Global.data_root=FOLDER",
    "pplcnet study -c my_study.yaml --seeds 0 1 --output output/my_study",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    shipped = ", ".join(shipped_studies())
    add_config_arguments(parser, what=f"run this study: a YAML file, or the name of a shipped one ({shipped})")
    group = parser.add_argument_group("what is trained")
    group.add_argument("--base", metavar="CONFIG", help="train this config instead of the one that the study names")
    group.add_argument("--seeds", type=seed, nargs="+", metavar="N", help="use these seeds instead of the study's")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=path,
        metavar="FOLDER",
        help="write runs and report to this folder (default: output/NAME_OF_THE_STUDY)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run or go on with a study; gives the exit status."""
    # A study reads the configs of its runs when Paddle is imported already, so that only `-o` can set the threads.
    given = [o.partition("=")[2] for o in arguments.override if o.startswith("Global.threads=")]
    set_threads(int(given[-1]) if given and is_digits(given[-1]) else None)
    from ppcls_ext.paper.study import Study, show
    from ppcls_ext.paper.study_plan import StudyPlan
    from ppcls_ext.training.trainer import Stopped

    try:
        plan = StudyPlan(arguments.config, arguments.base, arguments.override, arguments.seeds, arguments.output)
        show(Study(plan))
    except Stopped as stopped:
        return stopped.exit_status
    return 0
