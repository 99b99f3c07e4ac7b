"""The log of a run as it is read again: each step and each evaluation once, whatever a kill has cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import discard_unsaved, read_log


def train(step: int, epoch: int = 1) -> dict[str, Any]:
    return {"event": "train", "epoch": epoch, "step": step}


def evaluated(epoch: int, step: int) -> dict[str, Any]:
    return {"event": "eval", "epoch": epoch, "step": step}


def written(tmp_path: Path, *events: dict[str, Any], after: str = "") -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in events) + after)
    return file


def test_what_was_done_but_not_saved_is_left_out(tmp_path: Path) -> None:
    resume = {"event": "resume", "epoch": 1, "step": 3}
    file = written(tmp_path, train(2), evaluated(1, 2), train(3, 2), train(4, 2), resume, train(4, 2))
    assert read_log(file) == [train(2), evaluated(1, 2), train(3, 2), resume, train(4, 2)]


def test_an_evaluation_that_is_made_again_counts_once(tmp_path: Path) -> None:
    """The kill came after the evaluation and before the state that knows of it."""
    resume = {"event": "resume", "epoch": 0, "step": 2}
    file = written(tmp_path, train(2), evaluated(1, 2), resume, evaluated(1, 2))
    assert read_log(file) == [train(2), resume, evaluated(1, 2)]


def test_a_run_that_is_resumed_after_its_end_has_one_end(tmp_path: Path) -> None:
    resume, end = {"event": "resume", "epoch": 1, "step": 2}, {"event": "end", "step": 2}
    assert read_log(written(tmp_path, train(2), end, resume, end)) == [train(2), resume, end]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    assert read_log(written(tmp_path, train(1), after='{"event": "tra')) == [train(1)]


@pytest.mark.parametrize("content", [b"\xff", b"3", b'{"a": 1}'])
def test_what_no_run_has_written_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"log .*log\.jsonl: not as a run writes it .*; remove it"):
        read_log(tmp_path / "log.jsonl")


def test_a_run_that_saved_nothing_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    discard_unsaved(run)
    run.mkdir()
    for name in ("config.yaml", "labels.txt", "log.jsonl", ".config.yaml.tmp"):
        (run / name).write_text("")
    (run / "scalars").mkdir()
    discard_unsaved(run)
    assert not run.exists()


@pytest.mark.parametrize("name", ["best.pdparams", "last.pdparams", "notes.txt"])
def test_a_run_folder_with_anything_else_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("dear")
    with pytest.raises(UserError, match=f"it holds {name}, but no latest.safetensors"):
        discard_unsaved(tmp_path)
    assert (tmp_path / name).read_text() == "dear"


def test_a_run_folder_that_is_a_link_or_taken_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match="no folder of its own"):
        discard_unsaved(tmp_path / "link")
    held = FolderLock(tmp_path / "run", "run folder")
    held.acquire()
    with pytest.raises(UserError, match="is still writing there"):
        discard_unsaved(tmp_path / "run")
    held.release()
