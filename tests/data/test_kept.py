"""Batches that are kept are those of the loader, in less memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.kept import KeptBatches
from ppcls_ext.data.loader import Loader, SampleKey, Sampler, Workers
from ppcls_ext.data.pixels import Normalization
from tests.helpers.loaders import batches, make
from tests.helpers.sets import write_split


class Pictures:
    """Pixels that are drawn by the number of the sample, and that number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        number = key.number
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        return pixels, np.array([number])


def stack(samples: list[Any]) -> list[np.ndarray]:
    return [np.stack(column) for column in zip(*samples, strict=True)]


def loader(workers: int) -> Loader:
    normalization = Normalization.of((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    sampler = Sampler(batch_size=3, shuffle=True)
    return Loader(Pictures(), sampler, Workers(num_workers=workers), stack, seed=5, normalization=normalization)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_batches_are_the_first_of_the_loader_each_time(workers: int) -> None:
    """Starts worker processes."""
    whole = list(loader(workers).epoch())
    kept = KeptBatches(loader(workers), 5)
    for _ in range(2):
        for ours, theirs in itertools.zip_longest(kept, whole[:2]):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one.numpy(), other.numpy())
                assert one.dtype == other.dtype


def test_pixels_are_kept_as_bytes() -> None:
    kept = KeptBatches(loader(0), 100)
    assert sum(images.nbytes for images, _ in kept.batches) == 10 * 4 * 6 * 3


def test_what_is_not_normalised_apart_is_kept_as_it_is() -> None:
    for ours, theirs in itertools.zip_longest(KeptBatches(make(), 100), batches(make())):
        np.testing.assert_array_equal(ours[0].numpy(), theirs)


def test_nothing_is_set_aside_for_images_that_are_seen_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, [2, 2, 2])
    cache = ImageCache("Train", sorted(str(path) for path in tmp_path.rglob("*.png")), "auto")
    again = make()
    again.cache = cache
    assert len(KeptBatches(again, 100).batches) == len(again)
    assert again.cache is cache  # the loader's own passes open it
    assert capsys.readouterr().err == ""
