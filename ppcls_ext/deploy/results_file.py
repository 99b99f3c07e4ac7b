"""Where results are written as they come: a file that outlives a crash, or standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write, naming, regular_target
from ppcls_ext.core.locks import locked
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.deploy.encoders import Encoder
from ppcls_ext.runtime.results import Result

COMMIT_SECONDS = 2.0  # results are stored at least this often: a crash loses no more work
MOST_WAITING = 4096  # so many results in memory are stored at once, however little time has passed


MODEL_FORMAT = "model format"  # what a run calls the format that its engine runs
Run = Callable[[], Mapping[str, Any]]  # gives what results depend on


class Sink(Protocol):
    """Takes results in the order of their images.

    Attributes:
        done: images whose results it has, those of an interrupted run included.
        failed: how many of them have an error.
    """

    done: int
    failed: int

    def write(self, result: Result) -> None:
        """Take the next result."""

    def finish(self) -> None:
        """Note that the last result has come."""

    def close(self) -> None:
        """Close what is open, whether all results have come or not."""


class StandardOutput:
    """Results on standard output, with a delay of at most `COMMIT_SECONDS` between two that come."""

    def __init__(self, encoder: Encoder) -> None:
        self.done = self.failed = 0
        self._encoder = encoder
        self._written = time.monotonic()
        sys.stdout.flush()
        sys.stdout.buffer.write(encoder.begin())

    def write(self, result: Result) -> None:
        """Take the next result."""
        self._encoder.add(result)
        self.done += 1
        self.failed += not result.ok
        if self.done % MOST_WAITING == 0 or time.monotonic() - self._written >= COMMIT_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Write what has not been written yet."""
        sys.stdout.buffer.write(self._encoder.drain())
        sys.stdout.buffer.flush()
        self._written = time.monotonic()

    def close(self) -> None:
        """Do nothing, since standard output stays open."""


class ResultsFile:
    """A file of results that outlives a crash at any moment.

    Until the last result is there, they are in FILE.part. FILE.part.json says what run they are of, of how many images
    they are, and how many bytes belong to these: whatever a crash left behind them is cut off, and its images are done
    again. An earlier FILE stays until the new one is whole.

    Args:
        path: FILE; a symlink keeps pointing where it does.
        encoder: of its format.
        run: gives what the results depend on, JSON-able; resuming wants the same. It is asked again each time that
            results are stored, since which engine `auto` takes may be known only then. None: the run cannot be resumed.
        resume: go on with an interrupted run, or begin where there is none.
    Raises:
        UserError: something that is no regular file is there; another process writes there; an interrupted run is there
            and not to be resumed, or is another run; there is nothing to resume, since FILE is whole.
    """

    def __init__(self, path: Path, encoder: Encoder, run: Run | None, resume: bool) -> None:
        self.done = self.failed = 0
        self._encoder, self._run = encoder, run
        self._target = regular_target(path)
        self._part, self._progress = _parts(self._target)
        self._finished = False
        regular_target(self._part)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        state = self._state(path, None if run is None else run(), resume)
        self._file = self._opened()
        try:
            self._begin(state)
        except BaseException:
            self._file.close()
            raise
        self._waiting = 0

    def _state(self, path: Path, run: Mapping[str, Any] | None, resume: bool) -> Mapping[str, Any] | None:
        """What is known of the interrupted run that is to be resumed; None begins anew."""
        if resume:
            check_unfinished(path)
        state = _read_progress(self._progress) if self._part.exists() else None  # else it is of one that was deleted
        if resume and state is not None and run is not None:
            check_same(self._part, state["run"], run)
            return state
        if state is not None and state["done"]:
            raise UserError(
                f"{self._part} has {state['done']} of {state['run']['images']} images of an interrupted run; "
                "go on with --resume, or delete it"
            )
        return None

    def _opened(self) -> IO[bytes]:
        """The part, opened for appending and locked."""
        file = open(self._part, "ab")  # noqa: SIM115  closed in close
        # Between opening and locking, another process may have finished it and moved it to its path.
        ours = locked(file, str(self._part), "do not let a second process write it")
        if not ours or not (self._part.exists() and os.path.samefile(file.fileno(), self._part)):
            file.close()
            raise UserError(f"{self._part}: another process is writing it; wait for it, or give another file")
        return file

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            self._file.truncate(0)
            self._store(self._encoder.begin())
            return
        if os.fstat(self._file.fileno()).st_size < state["bytes"]:
            raise UserError(f"{self._part} has lost bytes that were written; delete it and begin again")
        self._file.truncate(state["bytes"])
        self.done, self.failed = state["done"], state["failed"]
        self._stored = time.monotonic()

    def write(self, result: Result) -> None:
        """Take the next result."""
        self._encoder.add(result)
        self.done += 1
        self.failed += not result.ok
        self._waiting += 1
        if self._waiting >= MOST_WAITING or time.monotonic() - self._stored >= COMMIT_SECONDS:
            self._store(self._encoder.drain())

    def _store(self, data: bytes) -> None:
        """Append bytes, and note that they belong to the results so far once they are safe."""
        with naming(self._part):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._run is not None:
            size = os.fstat(self._file.fileno()).st_size
            state = {"done": self.done, "failed": self.failed, "bytes": size, "run": self._run()}
            text = json.dumps(state, indent=1) + "\n"
            atomic_write(self._progress, lambda file: file.write_text(text), f"{self._progress.name}.tmp")
        self._waiting = 0
        self._stored = time.monotonic()

    def finish(self) -> None:
        """Move the file to its path, since the last result has come."""
        self._store(self._encoder.drain())
        self._encoder.complete(self._part, self._target)
        self._progress.unlink(missing_ok=True)
        self._finished = True

    def close(self) -> None:
        """Close the file. What a run that cannot be resumed has left is removed."""
        self._file.close()
        if self._run is None and not self._finished:
            self._part.unlink(missing_ok=True)


def check_unfinished(path: Path) -> None:
    """Raise UserError where there is nothing to resume, since a file of results is whole."""
    part, progress = _parts(regular_target(path))
    if path.exists() and not part.exists():
        progress.unlink(missing_ok=True)  # a crash came between the last two steps of the run that wrote it
        raise UserError(f"{path} is whole, there is nothing to resume; without --resume it is made anew")


def interrupted_run(path: Path) -> Mapping[str, Any]:
    """What the results of the interrupted run of a file depend on; nothing, where there is no such run.

    Raises:
        UserError: what is noted of the run is not as it was written.
    """
    part, progress = _parts(regular_target(path))
    state = _read_progress(progress) if part.exists() else None
    run: Mapping[str, Any] = {} if state is None else state["run"]
    return run


def _parts(target: Path) -> tuple[Path, Path]:
    """The files of an interrupted run: its results so far, and what is known of it."""
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def _read_progress(file: Path) -> Mapping[str, Any] | None:
    if not os.path.lexists(file):
        return None
    try:
        state = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file} is not as infer wrote it ({error}); delete it and begin again") from error
    run = state.get("run") if isinstance(state, dict) else None
    if not isinstance(run, dict):
        raise UserError(f"{file} is not as infer wrote it; delete it and begin again")
    counts = [run.get("images"), *(state.get(key) for key in ("done", "failed", "bytes"))]
    if not all(type(n) is int and n >= 0 for n in counts) or state["done"] > run["images"]:
        raise UserError(f"{file} is not as infer wrote it; delete it and begin again")
    return state


def check_same(part: Path, begun: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise UserError where a run differs from the one that was interrupted, naming the first difference."""
    for key in run:
        if begun.get(key) == run[key] or (key == MODEL_FORMAT and key not in begun):  # earlier versions did not note it
            continue
        short = all(len(str(value)) < 60 for value in (begun.get(key), run[key]))
        values = f" ({_shown(begun.get(key))}, now {_shown(run[key])})" if short else ""
        raise UserError(f"{part} was begun with other {key}{values}; give the same, or delete it to begin again")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
