"""`pplcnet check-data`."""

from __future__ import annotations

import argparse

from ppcls_ext.cli.arguments import add_config_arguments, path, read_config
from ppcls_ext.core.errors import UserError

NAME = "check-data"
HELP = "report everything that is wrong with a config's data"
DESCRIPTION = (
    "Read the lists, labels and images that a config names, decode every image, and report each fault with its place. "
    "The exit status is 2 where there is an error."
)
EXAMPLES = (
    "pplcnet check-data -c my_images -o Global.data_root=FOLDER --picture samples.png",
    "pplcnet check-data -c det/my_coco -o Global.data_root=FOLDER --speed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_config_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--picture", type=path, metavar="FILE", help="draw samples with their labels into this PNG file")
    group.add_argument("--speed", action="store_true", help="also time the loader of the training images alone")


def run(arguments: argparse.Namespace) -> int:
    """Check the data; gives the exit status."""
    config = read_config(arguments.config, arguments.override)
    from ppcls_ext.tasks.check_data import check_data

    return UserError.exit_status if check_data(config, arguments.picture, arguments.speed) else 0
