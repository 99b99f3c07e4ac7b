"""`pplcnet eval`."""

from __future__ import annotations

import argparse

from ppcls_ext.cli.arguments import add_config_arguments, engine_names, listed, path, read_config
from ppcls_ext.runtime.choice import FIRST, PADDLE, PREFERRED

NAME = "eval"
HELP = "measure the accuracy of trained weights"
DESCRIPTION = (
    "Evaluate the weights of a run folder, or of Global.pretrained_model, on the Eval data of the config, and report "
    "the metrics of the task, a table with a row for each class, and pictures."
)
EXAMPLES = (
    "pplcnet eval -c output/my_images",
    "pplcnet eval -c output/my_coco --save-dir report/ --draw boxes/",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_config_arguments(parser)
    engines = engine_names(auto=False, rounding=False, more=[FIRST, PADDLE])
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="ENGINE",
        help=f"run the network on {engines}: the first of {listed(PREFERRED)} that gives what Paddle gives, or Paddle "
        f"itself without export (default: {FIRST} where a set is large enough to gain by it, else {PADDLE})",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save-dir",
        type=path,
        metavar="FOLDER",
        help="write the report to this folder (default: eval/ in the run folder)",
    )
    group.add_argument("--json", action="store_true", help="print the metrics as JSON instead of tables")
    group.add_argument("--draw", type=path, metavar="FOLDER", help="write pictures of the results to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; gives the exit status."""
    config = read_config(arguments.config, arguments.override)
    from ppcls_ext.deploy.evaluate import evaluate

    evaluate(config, arguments.save_dir, arguments.json, arguments.draw, arguments.engine)
    return 0
