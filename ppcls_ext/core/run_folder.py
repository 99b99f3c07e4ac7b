"""The run folder: everything that training leaves behind, and where."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ppcls_ext.core import distributed
from ppcls_ext.core.config import (
    BEST_WEIGHTS,
    ENVIRONMENT,
    LABELS,
    LAST_WEIGHTS,
    LATEST_STATE,
    RUN_CONFIG,
    Config,
    dump_config,
    run_folder_path,
)
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import append_line, atomic_write_text
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.machine import cpu_model
from ppcls_ext.core.reading import Unreadable, parsed_json, read_text
from ppcls_ext.core.text import command_line
from ppcls_ext.core.version import __version__
from ppcls_ext.upstream.visualdl import scalars_writer

LOG = "log.jsonl"  # one JSON object a line, see `RunFolder`
LARGEST_LOG = 1 << 30  # bytes
PACKAGES = (
    "paddlepaddle",
    "paddleclas",
    "paddledet",
    "paddleseg",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "safetensors",
)


def package_versions() -> dict[str, str | None]:
    """The version of each of `PACKAGES`; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    return {
        "command": command_line(),
        "pplcnet": __version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "usable_cores": usable_cores(),  # each process has these
        "processes": distributed.world(),
    }


class RunFolder:
    """Files of one training run.

    config.yaml        the resolved config; `-c RUN_FOLDER` reads it
    environment.json   command, versions, machine
    labels.txt         class names, a line each
    run.lock           held by the process that trains; says which one that is
    log.jsonl          one JSON object a line: train, eval, resume, stop, end
    scalars/           VisualDL
    latest.safetensors everything needed to go on exactly
    best.pdparams      weights with the best primary metric; last.pdparams: of the last evaluation, or of the end
    eval/              tables and pictures of the last evaluation
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / RUN_CONFIG
        self.labels = path / LABELS
        self.best = path / BEST_WEIGHTS
        self.last = path / LAST_WEIGHTS
        self.latest = path / LATEST_STATE
        self.eval = path / "eval"
        self._lock = FolderLock(path, "run folder")
        self._writer: Any = None

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder that a config's run goes into."""
        return cls(run_folder_path(config))

    def check_unused(self) -> None:
        """Raise UserError where the folder holds a run already."""
        if self.latest.exists() or self.best.exists():
            raise UserError(
                f"run folder {self.path}: it already holds a run; go on with --resume {self.path}, "
                "or write elsewhere: give the YAML file it came from, and -o Global.output_dir=FOLDER"
            )

    def start(self, config: Config, labels: tuple[str, ...], resuming: bool) -> None:
        """Make the folder and write what is known before the first step (in one process of a job).

        Raises:
            UserError: it already holds a run and this is not its continuation.
        """
        self.lock()
        if not resuming:
            self.check_unused()
        if not distributed.is_main():
            return
        try:
            for folder in (self.path, self.eval):
                for unfinished in folder.glob(".*.tmp"):  # a process that was killed in the middle of a write left it
                    unfinished.unlink()
            if not resuming:  # what is there is of a run that ended before it saved anything
                (self.path / LOG).unlink(missing_ok=True)
            atomic_write_text(self.config, dump_config(config))
            atomic_write_text(self.labels, "".join(f"{name}\n" for name in labels))
            atomic_write_text(self.path / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"run folder {self.path}: cannot be written ({error.strerror})") from error

    def lock(self) -> None:
        """Keep other runs out of the folder until `unlock` or the end of the process, in one process of a job.

        Raises:
            UserError: another run is under way there (in all processes of the job), or it cannot be written.
        """
        failure = ""
        if distributed.is_main():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
            except OSError as error:
                failure = f"run folder {self.path}: cannot be written ({error.strerror})"
            except UserError as error:
                failure = str(error)
        failures = [text for text in distributed.gathered(failure) if text]
        if failures:
            raise UserError(failures[0])

    def unlock(self) -> None:
        """Let other runs into the folder."""
        self._lock.release()

    def log(self, event: str, values: Mapping[str, Any]) -> None:
        """Append an event to log.jsonl, if this process is the one that does."""
        if not distributed.is_main():
            return
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        append_line(self.path / LOG, line, durable=event != "train")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write VisualDL scalars, if this process is the one that does."""
        if not distributed.is_main():
            return
        if self._writer is None:
            self._writer = scalars_writer(str(self.path / "scalars"), self._say_without_scalars)
        for tag, value in values.items():
            self._writer.add_scalar(tag=tag, value=float(value), step=step)

    def _say_without_scalars(self, error: OSError) -> None:
        say(f"{self.path / 'scalars'}: cannot be written ({error.strerror}); the run goes on without these curves")

    def close(self) -> None:
        """Close the scalars of VisualDL, if there are any."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a log.jsonl, oldest first.

    Left out are a line cut short by a crash, and steps and evaluations that a run had done but not saved when it was
    killed: they are done again after the resume.
    Raises:
        UserError: a file that no run has written.
    """
    events: list[dict[str, Any]] = []
    try:
        for line in read_text(path, LARGEST_LOG).splitlines():
            try:
                event = parsed_json(line)
            except Unreadable:
                continue
            if event["event"] == "resume":
                events = [earlier for earlier in events if _saved(earlier, event)]
            events.append(event)
    except (Unreadable, TypeError, KeyError) as error:
        raise UserError(f"log {path}: not as a run writes it ({error}); remove it") from error
    return events


def has_ended(path: Path) -> bool:
    """Whether the run in a run folder went to its end, and not only to an evaluation that wrote weights.

    Raises:
        UserError: see `read_log`.
    """
    log = path / LOG
    events = read_log(log) if log.is_file() else []
    return bool(events) and events[-1]["event"] == "end"


def _saved(earlier: Mapping[str, Any], resume: Mapping[str, Any]) -> bool:
    """Whether the state that a run was resumed from has what an event tells of; its end is told again."""
    if earlier["event"] == "end":
        return False
    evaluated = earlier["epoch"] if earlier["event"] == "eval" else 0
    return bool(earlier["step"] <= resume["step"] and evaluated <= resume["epoch"])


# What a run leaves before it has saved anything, beside hidden files.
BEGUN = {RUN_CONFIG, ENVIRONMENT, LABELS, "run.lock", LOG, "scalars", "eval", "log"}


def discard_unsaved(path: Path) -> None:
    """Remove the run folder of a run that ended before it had saved anything to go on from, where there is one.

    Raises:
        UserError: something else is in it, or another process writes there; all of it stays.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"run folder {path}: it is no folder of its own; move it away, or give another folder")
    _check_nothing_saved(path)
    folder = RunFolder(path)
    folder.lock()
    try:
        _check_nothing_saved(path)  # nothing has come in before the lock was ours
        shutil.rmtree(path)
    finally:
        folder.unlock()


def _check_nothing_saved(path: Path) -> None:
    others = sorted(name for name in os.listdir(path) if name not in BEGUN and not name.startswith("."))
    if others:
        raise UserError(
            f"run folder {path}: it holds {others[0]}, but no {LATEST_STATE} to go on from; move it away, or give "
            "another folder"
        )
