"""Decoded images in memory: the same pixels, decoded once, within what is free."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.core.images import read_rgb
from ppcls_ext.data import cache as module
from ppcls_ext.data.cache import ImageCache, Setting
from ppcls_ext.data.loader import Loader, SampleKey, Sampler, Workers
from tests.helpers.loaders import batches, stack
from tests.helpers.sets import write_split

NEEDED = 6 * 48 * 48 * 3 + 1  # bytes of the six pictures


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    write_split(tmp_path, [2, 2, 2])
    return sorted(str(path) for path in tmp_path.rglob("*.png"))


def opened(paths: list[str], setting: Setting = "auto", skip: int = 0) -> ImageCache:
    cache = ImageCache("Train", paths, setting, skip=skip)
    cache.open(workers=0)
    return cache


def decoded(cache: ImageCache, paths: list[str]) -> int:
    """How many of the images had to be decoded in a pass over all; each is compared with its file."""
    calls = list[str]()
    for number, path in enumerate(paths):

        def read(path: str = path) -> np.ndarray:
            calls.append(path)
            return read_rgb(path)

        np.testing.assert_array_equal(cache.read(number, read), read_rgb(path))
    return len(calls)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: count)


def test_each_image_is_decoded_once(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cache = opened(paths)
    assert [decoded(cache, paths), decoded(cache, paths)] == [6, 0]
    assert capsys.readouterr().err.startswith("Train: decoded images are kept in memory, about 1 MB of ")


def temporary_files() -> set[str]:
    """The files without a name that this process has open."""
    links = {}
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the one by which they are listed is closed
            links[number] = os.readlink(f"/dev/fd/{number}")
    return {number for number, link in links.items() if link.endswith(" (deleted)")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_let_go_and_can_be_taken_anew(paths: list[str]) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/zero (deleted)")

    before = mappings()
    cache = opened(paths)
    decoded(cache, paths)
    assert mappings() > before
    cache.close()
    assert mappings() == before
    assert decoded(cache, paths) == 6
    cache.open(workers=0)
    assert [decoded(cache, paths), decoded(cache, paths)] == [6, 0]


def test_no_file_is_left_open(paths: list[str]) -> None:
    def pass_over(cache: ImageCache) -> set[str]:
        decoded(cache, paths)
        return temporary_files()

    before = temporary_files()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(pass_over(opened(paths)) - before) == 1
        gc.collect()
    assert [warning for warning in caught if warning.category is ResourceWarning] == []
    assert temporary_files() <= before


def test_an_image_may_be_changed_by_who_reads_it(paths: list[str]) -> None:
    cache = opened(paths)
    for _ in range(2):
        cache.read(0, lambda: read_rgb(paths[0]))[:] = 0
    assert decoded(cache, paths) == 5


class Decoded:
    """Samples that say whether their image had to be decoded."""

    def __init__(self, cache: ImageCache, paths: list[str]) -> None:
        self.cache, self.paths = cache, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> np.ndarray:
        calls = list[int]()

        def read() -> np.ndarray:
            calls.append(key.number)
            return read_rgb(self.paths[key.number])

        np.testing.assert_array_equal(self.cache.read(key.number, read), read_rgb(self.paths[key.number]))
        return np.array([len(calls)])


@pytest.mark.slow
def test_workers_find_what_others_have_decoded(paths: list[str]) -> None:
    cache = ImageCache("Train", paths, "auto")
    sampler, workers = Sampler(batch_size=2, shuffle=True), Workers(num_workers=2)
    loader = Loader(Decoded(cache, paths), sampler, workers, stack, seed=0, cache=cache)
    assert [int(np.sum(batches(loader, epoch))) for epoch in (0, 1)] == [6, 0]


@pytest.mark.parametrize(
    ("setting", "room", "kept", "line"),
    [
        ("auto", 2 * NEEDED, 6, "decoded images are kept in memory"),
        ("auto", NEEDED, 0, "images are decoded anew in every epoch: they would take 1 MB of 1 MB free memory"),
        (True, NEEDED, 3, "about 50% of the decoded images are kept in memory: all take 1 MB of 1 MB"),
        (False, 2 * NEEDED, 0, ""),
    ],
)
def test_only_half_of_the_free_memory_is_taken(
    paths: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: Setting,
    room: int,
    kept: int,
    line: str,
) -> None:
    free(monkeypatch, room)
    cache = opened(paths, setting)
    decoded(cache, paths)
    assert decoded(cache, paths) == 6 - kept
    assert line in capsys.readouterr().err


def test_what_is_read_once_is_not_kept(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cache = opened(paths, skip=1)
    assert decoded(cache, paths) == decoded(cache, paths) == 6
    assert capsys.readouterr().err == ""
    cache.open(workers=0)
    assert [decoded(cache, paths), decoded(cache, paths)] == [6, 0]


def test_masks_lie_beside_their_images(paths: list[str]) -> None:
    cache = ImageCache("Train", paths, "auto", extra=1, slots=2)
    cache.open(workers=0)
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for _ in range(2):
        np.testing.assert_array_equal(cache.read(1, lambda: read_rgb(paths[1]), slot=0), read_rgb(paths[1]))
        np.testing.assert_array_equal(cache.read(1, lambda: mask, slot=1), mask)
