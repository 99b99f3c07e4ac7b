"""A disk on which curves cannot be written does not keep the training waiting."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ppcls_ext.upstream.visualdl import scalars_writer


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[OSError] = []
    writer = scalars_writer(str(tmp_path / "whole"), told.append)
    for step in range(5):
        writer.add_scalar(tag="loss", value=1.0, step=step)
    writer.close()
    (written,) = (tmp_path / "whole").iterdir()
    assert told == []
    assert written.stat().st_size > 150

    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    writer = scalars_writer(str(tmp_path / "link"), told.append)
    writer.add_scalar(tag="loss", value=1.0, step=0)
    writer.close()
    assert [type(error) for error in told] == [FileExistsError]
    told.clear()

    from visualdl.io import bfile

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bfile.BFile, "flush", full)
    writer = scalars_writer(str(tmp_path / "full"), told.append)
    for step in range(300):  # more than the queue of VisualDL holds
        writer.add_scalar(tag="loss", value=1.0, step=step)
    writer.close()
    assert [error.errno for error in told] == [errno.ENOSPC]
