"""`pplcnet train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcls_ext.cli.arguments import add_config_arguments, read_config
from ppcls_ext.core.config import LATEST_STATE
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.spec import SPECS

NAME = "train"
HELP = "train a network, or go on with a run that was stopped"
DESCRIPTION = (
    "Train the network of a config and keep weights, log and curves in a run folder, or go on with a run exactly where "
    "it stopped. Ctrl-C saves the latest state first. "
    "-o Arch.name=NETWORK trains another network. The networks of the family are: " + ", ".join(SPECS) + "."
)
EXAMPLES = (
    "pplcnet train -c my_images -o Global.data_root=FOLDER",
    "pplcnet train --resume output/my_images",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_config_arguments(parser, required=False)
    group = parser.add_argument_group("resuming")
    group.add_argument("--resume", metavar="FOLDER", help="go on with the run of this run folder, with its own config")


def run(arguments: argparse.Namespace) -> int:
    """Train; gives the exit status."""
    if arguments.resume and arguments.config:
        raise UserError("--resume continues with the run folder's own config: leave -c out, or use -o to change a key")
    if not arguments.resume and not arguments.config:
        raise UserError("train needs a config (-c FILE) or a run folder to go on with (--resume FOLDER)")
    if arguments.resume and not (Path(arguments.resume) / LATEST_STATE).is_file():
        raise UserError(
            f"--resume {arguments.resume}: no {LATEST_STATE} there; give the run folder of a run that saved"
        )
    overrides = list(arguments.override)
    if arguments.resume:
        overrides.append(f"Global.checkpoints={arguments.resume}")
    config = read_config(arguments.resume or arguments.config, overrides)
    from ppcls_ext.training.trainer import Stopped, train

    try:
        train(config)
    except Stopped as stopped:
        return stopped.exit_status
    return 0
