"""`pplcnet export`."""

from __future__ import annotations

import argparse

from ppcls_ext.cli.arguments import add_config_arguments, read_config
from ppcls_ext.runtime.engines.base import FLOAT_FORMATS

FORMAT_CHOICES = ("both", *FLOAT_FORMATS, "all")  # the keys of `ppcls_ext.deploy.export.CHOICES`, which imports Paddle

NAME = "export"
HELP = "write a trained model for deployment, and check it on every engine"
DESCRIPTION = (
    "Write the weights of a run folder, or of Global.pretrained_model, in the formats that the engines run, with the "
    "pre- and postprocessing beside them (inference.yml). Every engine then runs the model in a process of its own; "
    "outputs other than dygraph's are an error (exit status 1), and an earlier export stays."
)
EXAMPLES = (
    "pplcnet export -c output/my_images",
    "pplcnet export -c output/my_coco --formats all -o Export.batch=1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_config_arguments(parser)
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "--formats",
        choices=FORMAT_CHOICES,
        metavar="FORMAT",
        help=f"write {', '.join(FLOAT_FORMATS)}, all of them (all), or json and pdmodel (both); onnx comes with "
        "json, which it is made from (default: all, without onnx where paddle2onnx is not installed)",
    )
    group.add_argument("--no-fold", action="store_true", help="do not fold batch norms into convolutions")


def run(arguments: argparse.Namespace) -> int:
    """Export; gives the exit status."""
    config = read_config(arguments.config, arguments.override)
    from ppcls_ext.bench.precision import smaller_numbers, wanted
    from ppcls_ext.deploy.export import chosen_formats, export
    from ppcls_ext.tasks.finding import make_task

    asked = wanted(make_task(config), chosen_formats(arguments.formats))
    folder = export(config, arguments.formats, not arguments.no_fold)
    if asked:
        smaller_numbers(config, folder, asked)
    return 0
