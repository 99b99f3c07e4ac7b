"""The one place that writes: the old file or the new one is there, whole, and nothing that is no file is replaced."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.core import files
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import (
    append_line,
    atomic_write,
    atomic_write_text,
    put_folder_in_place,
    regular_target,
    restore_folder,
)
from ppcls_ext.core.system import exchange
from tests.helpers.faults import Fault, bad_disk, fault_at, half_then_full, kill, no_rights, no_space

OF_A_WRITE = 4  # steps: fill, sync, rename, sync of the folder


def test_a_write_is_these_steps(tmp_path: Path) -> None:
    with fault_at(0, kill) as taken:
        atomic_write_text(tmp_path / "file", "new")
    assert taken == ["fill", "sync", "rename", "sync"]


@pytest.mark.parametrize("fault", [no_space, no_rights, bad_disk, half_then_full])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, OF_A_WRITE + 1))
def test_a_failing_step_leaves_a_whole_file_and_names_it(
    number: int, after: bool, fault: Fault, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    atomic_write_text(path, "old")
    moved = number == OF_A_WRITE or (number == OF_A_WRITE - 1 and after)
    with fault_at(number, fault, after), pytest.raises(OSError, match=r"file'$") as caught:
        atomic_write_text(path, "new and longer")
    assert caught.value.filename == str(path)
    assert "\n" not in str(caught.value)
    if caught.value.errno == errno.ENOSPC:
        assert "no space left on the disk; free some and go on" in str(caught.value)
    assert path.read_text() == ("new and longer" if moved else "old")
    assert list(tmp_path.iterdir()) == [path]


def killed(write: Callable[[], object], number: int, after: bool) -> None:
    """Write in a process that is killed at a step."""
    child = os.fork()
    if child == 0:
        try:
            with fault_at(number, kill, after):
                write()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, OF_A_WRITE + 1))
def test_a_kill_at_a_step_leaves_a_whole_file(number: int, after: bool, tmp_path: Path) -> None:
    """Slow: a process is forked off."""
    path = tmp_path / "file"
    atomic_write_text(path, "old")
    killed(lambda: atomic_write(path, lambda file: file.write_text("new"), "left.tmp"), number, after)
    assert path.read_text() in ("old", "new")
    atomic_write(path, lambda file: file.write_text("newer"), "left.tmp")
    assert path.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [path]


def folder_of(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "one").write_text(text)
    (path / "two").write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("number", range(1, 5))
def test_a_kill_while_a_folder_is_replaced_leaves_a_whole_one(
    number: int, exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: a process is forked off."""
    target, source = folder_of(tmp_path / "target", "old"), folder_of(tmp_path / "source", "new")
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    killed(lambda: put_folder_in_place(source, target), number, after=number % 2 == 0)
    restore_folder(target)
    found = {(target / name).read_text() for name in ("one", "two")}
    assert found in ({"old"}, {"new"})


def test_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    target, source = folder_of(tmp_path / "target", "old"), folder_of(tmp_path / "source", "new")
    assert exchange(source, target)
    assert (target / "one").read_text() == "new"
    put_folder_in_place(source, target)
    assert (target / "one").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert not exchange(tmp_path / "nothing", target)


def test_what_is_no_regular_file_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    fifo, folder, link = tmp_path / "fifo", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(fifo)
    folder.mkdir()
    link.symlink_to(fifo)
    for path, kind in ((fifo, "FIFO"), (folder, "folder"), (link, "FIFO"), (Path("/dev/null"), "device")):
        with pytest.raises(UserError, match=f"is a {kind} and is not written over"):
            regular_target(path)
    for path in (fifo, link):
        with pytest.raises(UserError, match="is a FIFO"):
            atomic_write_text(path, "new")
        with pytest.raises(UserError, match="is a FIFO"):
            append_line(path, "new", durable=False)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    with pytest.raises(UserError, match="no path of a file"):
        atomic_write_text(tmp_path / "a\0b", "new")


def test_a_symlink_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "file"
    link.symlink_to(target)
    atomic_write_text(link, "made")  # its target is not there yet
    atomic_write_text(link, "new")
    append_line(link, " and a line", durable=True)
    assert link.is_symlink()
    assert target.read_text() == "new\n and a line\n"
    assert list(target.parent.iterdir()) == [target]


def test_what_stands_at_the_temporary_name_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "t.tmp").symlink_to(tmp_path / "precious")
    atomic_write(tmp_path / "file", lambda file: file.write_text("new"), "t.tmp")
    os.mkfifo(tmp_path / "t.tmp")
    atomic_write(tmp_path / "file", lambda file: file.write_text("newer"), "t.tmp")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "newer"


def test_half_a_line_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    append_line(log, "one", durable=False)
    with open(log, "a") as file:
        file.write('{"half')
    append_line(log, "two", durable=True)
    assert log.read_text() == 'one\n{"half\ntwo\n'
