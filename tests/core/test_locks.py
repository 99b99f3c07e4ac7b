"""A folder has one process at a time, and its lock ends with it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from ppcls_ext.core import locks
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.system import NoLocks


def test_the_second_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path, "run folder"), FolderLock(tmp_path, "run folder")
    first.acquire()
    first.acquire()  # what it has it keeps
    with pytest.raises(UserError) as caught:
        second.acquire()
    who = f"run folder {tmp_path}: process {os.getpid()} on {socket.gethostname()}, started 20"
    assert str(caught.value).startswith(who)
    assert str(caught.value).endswith(", is still writing there; wait for it, or stop it, or give another folder")
    first.release()
    second.acquire()
    second.release()


@pytest.mark.slow
def test_a_lock_ends_with_its_process_though_its_children_live_on(tmp_path: Path) -> None:
    """Slow: processes are forked off."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done[1])
        held = FolderLock(tmp_path, "run folder")
        held.acquire()
        if os.fork() == 0:  # as a worker of a loader, which outlives a kill of the run for seconds
            os.write(ready[1], b"x")
        os.read(done[0], 1)  # which ends when the test does, however that comes
        held.release()
        os._exit(0)
    try:
        os.read(ready[0], 1)
        own = FolderLock(tmp_path, "run folder")
        with pytest.raises(UserError, match=f"process {child} on"):
            own.acquire()
        os.kill(child, signal.SIGKILL)
        own_child, _ = os.waitpid(child, 0)
        assert own_child == child
        own.acquire()
        own.release()
    finally:
        os.close(done[1])


@pytest.mark.parametrize("note", [b"", b"[" * 100_000, b"{}", b'{"pid": [], "host": 1, "start": 2}', b"\xff"])
def test_a_note_that_cannot_be_read_is_another_process(note: bytes, tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "run folder")
    first.acquire()
    (tmp_path / "run.lock").write_bytes(note)
    with pytest.raises(UserError, match="another process is still writing there"):
        FolderLock(tmp_path, "run folder").acquire()
    first.release()


def test_without_locks_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def none(file: object) -> bool:
        raise NoLocks(95, "Operation not supported")

    monkeypatch.setattr(locks, "try_lock", none)
    FolderLock(tmp_path, "run folder").acquire()
    said = capfd.readouterr().err
    assert said == f"run folder {tmp_path}: no lock there (Operation not supported); do not start a second run in it\n"


def test_a_fifo_in_its_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.lock")
    with pytest.raises(UserError, match="is a FIFO"):
        FolderLock(tmp_path, "run folder").acquire()


def test_a_context_makes_the_folder_and_lets_go_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with FolderLock(folder, "study folder"), pytest.raises(UserError, match="is still writing there"):
        FolderLock(folder, "study folder").acquire()
    FolderLock(folder, "study folder").acquire()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"study folder .*file: .*; give another folder"):
        FolderLock(tmp_path / "file", "study folder").__enter__()
