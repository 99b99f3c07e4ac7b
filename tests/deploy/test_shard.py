"""Shares of a list: the same everywhere, and everything once."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import named_images
from ppcls_ext.deploy.infer import images_of
from ppcls_ext.deploy.shard import Shard, read_shard


def images_in(folder: Path, count: int = 200) -> Path:
    for number in range(count):
        file = folder / f"camera {number % 7}" / os.fsdecode(b"%d \xff.jpg" % number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def below(folder: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, folder) for path in paths]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_shares_together_are_everything_once(count: int, tmp_path: Path) -> None:
    folder = images_in(tmp_path / "images")
    given = [str(folder), str(folder / "camera 1"), str(next((folder / "camera 2").iterdir()))]  # some named twice
    shares = [images_of(given, Shard(index, count)) for index in range(1, count + 1)]
    assert sorted(itertools.chain(*shares)) == sorted(images_of(given, None))
    assert all(200 / count * 0.5 < len(share) < 200 / count * 1.5 for share in shares)


def test_a_share_is_the_same_wherever_the_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = images_in(tmp_path / "here")
    there = tmp_path / "mnt" / "there"
    shutil.copytree(here, there)
    shard = Shard(2, 3)
    expected = below(here, images_of([str(here)], shard))
    assert below(there, images_of([str(there)], shard)) == expected
    assert below(here, images_of([f"{here}/*/*.jpg"], shard)) == expected
    monkeypatch.chdir(there)
    assert images_of(["."], shard) == expected
    assert images_of(["*/*.jpg"], shard) == expected


def test_what_comes_or_goes_moves_no_other_image(tmp_path: Path) -> None:
    folder = images_in(tmp_path / "images")
    before = {index: set(images_of([str(folder)], Shard(index, 4))) for index in range(1, 5)}
    gone = str(next((folder / "camera 0").iterdir()))
    os.unlink(gone)
    (folder / "camera 0" / "a new one.jpg").touch()
    for index, paths in before.items():
        assert set(images_of([str(folder)], Shard(index, 4))) - {str(folder / "camera 0/a new one.jpg")} == paths - {
            gone
        }


def test_the_share_of_a_name_never_changes() -> None:
    """Jobs of different versions may share one list."""
    names = ["a.jpg", "camera/0001.jpg", "grün.png", os.fsdecode(b"\xff.jpg")]
    assert [next(index for index in range(1, 101) if Shard(index, 100).has(name)) for name in names] == [50, 10, 20, 31]


def test_a_single_file_is_called_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.touch()
    assert list(named_images([str(file)])) == [(str(file), str(file))]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "0/0"])
def test_shares_are_counted_from_1(text: str) -> None:
    with pytest.raises(UserError, match=f"--shard {text}: shares are counted from 1 to N"):
        read_shard(text)


@pytest.mark.parametrize("text", ["a/b", "1", "1/", "/4", "-1/4", "1/4/2", "1.5/4", "١/4", ""])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UserError, match="expected I/N, share I of N, such as 1/4"):
        read_shard(text)


def test_a_share_as_it_is_written() -> None:
    assert str(read_shard("3/4")) == "3/4"
