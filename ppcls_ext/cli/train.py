"""`pplcnet train`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.cli.arguments import add_config_arguments, given, threads, up_to
from ppcls_ext.core.config import ENVIRONMENT, LATEST_STATE, Config, in_run_folder, load_config
from ppcls_ext.core.device import cpu_threads, free_cores, processes_of_job, set_threads, usable_cores
from ppcls_ext.core.display import say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.launcher import run_job
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.text import assignment
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
    group.add_argument(
        "--resume", type=given, metavar="FOLDER", help="go on with the run of this run folder, with its own config"
    )
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--nproc",
        type=threads,  # no machine that this runs on has more cores
        default=1,
        metavar="N",
        help="train in this many processes of this machine, each with a batch of its own; their logs go to log/ in the "
        "run folder",
    )
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--profile",
        type=up_to(1000),
        metavar="N",
        help="train N steps and show where their time goes; nothing is saved",
    )


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
        overrides.append(assignment("Global.checkpoints", arguments.resume))
    given = arguments.resume or arguments.config
    if arguments.profile:
        if load_config(given, overrides).get("Distill"):
            overrides.append("Distill.cache=null")  # a profile writes nothing
        return _profile(arguments, _leaving_busy_cores(given, overrides))
    if arguments.nproc > 1:
        return _run_processes(arguments, load_config(given, overrides))
    config = _leaving_busy_cores(given, overrides)
    from ppcls_ext.training.trainer import Stopped, train

    try:
        train(config)
    except Stopped as stopped:
        return stopped.exit_status
    return 0


def _leaving_busy_cores(given: str, overrides: Sequence[str]) -> Config:
    """The config, with the threads set that it asks for; else as many as there are cores that nobody else uses.

    A step ends when its last thread does, and a thread that shares its core with another process ends last. The run
    keeps the number in its config, since a resume with another one would not be exact: Paddle's classifier then adds
    up in another order.
    """
    config = load_config(given, overrides)
    if config.global_section.threads is None and not config.global_section.checkpoints:
        config = load_config(given, [*overrides, f"Global.threads={_threads_to_begin_with()}"])
    elif not any(_gives_threads(override) for override in overrides):
        kept, shared = config.global_section.threads, _share_of_another_job(config)
        if shared != kept:
            say(
                f"this run had {kept} threads a process, and now has another number of processes: {shared} each, which "
                "is as large a share of the cores; -o Global.threads=N takes another number"
            )
            config = load_config(given, [*overrides, f"Global.threads={shared}"])
    set_threads(config.global_section.threads)
    return config


def _gives_threads(override: str) -> bool:
    key, _, value = override.partition("=")
    return key.strip() == "Global.threads" or (key.strip() == "Global" and "threads" in value)


def _threads_to_begin_with() -> int:
    if {"OMP_NUM_THREADS", "PADDLE_LOCAL_SIZE"} & os.environ.keys():
        return cpu_threads()
    threads, usable = free_cores(), usable_cores()
    if threads < usable:
        say(f"{threads} of {usable} cores are free: as many threads; -o Global.threads=N takes another number")
    return threads


def _share_of_another_job(config: Config) -> int | None:
    """The threads that a run's number stands for in this process, where the run had another number of processes.

    Those processes had other shares of the machine's cores, and its results are not repeated bit for bit anyway.
    Elsewhere the number holds as it is.
    """
    threads = config.global_section.threads
    if threads is None or not in_run_folder(config.path):
        return threads
    try:
        run = read_json(config.path.parent / ENVIRONMENT)
    except Unreadable:
        return threads
    processes, cores = (run.get("processes"), run.get("usable_cores")) if isinstance(run, dict) else (None, None)
    if not (isinstance(processes, int) and isinstance(cores, int) and cores > 0):
        return threads
    if processes == processes_of_job():
        return threads
    return max(1, threads * usable_cores() // cores)


def _run_processes(arguments: argparse.Namespace, config: Config) -> int:
    """Run the same command without `--nproc` in each process of a job.

    Raises:
        UserError: beside `run_job`'s, where a run that is there is not to be touched, its logs included.
    """
    from ppcls_ext.core.run_folder import RunFolder

    folder = RunFolder.of(config)
    folder.lock()
    folder.unlock()  # for the job
    if not arguments.resume:
        folder.check_unused()
    own = ["--resume", arguments.resume] if arguments.resume else ["-c", arguments.config]
    for override in arguments.override:
        own += ["-o", override]
    command = [sys.executable, "-u", "-m", "ppcls_ext.cli", NAME, *own]
    return run_job(arguments.nproc, command, folder.path / "log", f"pplcnet {NAME}: ")


def _profile(arguments: argparse.Namespace, config: Config) -> int:
    from ppcls_ext.training.profile import check_profilable, profile, tables

    check_profilable(arguments.nproc, bool(arguments.resume))
    for title, columns, rows in tables(profile(config, arguments.profile)):
        show_table(title, columns, rows)
    return 0
