"""Batches: the order is a function of seed and epoch, and nothing depends on who prepares them."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import BrokenImage
from ppcls_ext.core.seeding import SAMPLE, derive, order, seed_python
from ppcls_ext.data.loader import Loader, SampleKey, Sampler, Workers
from tests.helpers.runs import ROOT, SECONDS


class Draws:
    """Samples that are drawn at random; the one numbered `bad` cannot be read."""

    def __init__(self, count: int, bad: int | None = None) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: SampleKey) -> np.ndarray:
        epoch, index, _ = key
        if index == self.bad:
            raise BrokenImage(f"image {index}.jpg: the file is empty")
        seed_python(0, SAMPLE, epoch, index)
        return np.array([index, random.random(), np.random.rand()])


def stack(samples: list[Any]) -> list[np.ndarray]:
    return [np.stack(samples)]


def batches(loader: Loader, epoch: int = 0, skip: int = 0) -> list[np.ndarray]:
    return [batch[0].numpy() for batch in loader.epoch(epoch, skip)]


def make(count: int = 11, workers: int = 0, bad: int | None = None, **sampler: Any) -> Loader:
    settings = {"batch_size": 3, "shuffle": True, **sampler}
    return Loader(Draws(count, bad), Sampler(**settings), Workers(num_workers=workers), stack, seed=5)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int) -> None:
    reference = batches(make())
    assert [len(b) for b in reference] == [3, 3, 3, 2]
    for ours, theirs in zip(batches(make(workers=workers)), reference, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_sample_once_in_an_order_of_the_epoch() -> None:
    first, second = (np.concatenate(batches(make(), epoch))[:, 0] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(11))
    assert list(first) != list(second)
    assert list(first) == list(order(5, 0, 11))


@pytest.mark.parametrize("skip", [0, 1, 3, 4])
def test_an_epoch_can_be_entered_anywhere(skip: int) -> None:
    whole, rest = batches(make()), batches(make(), skip=skip)
    assert len(rest) == len(whole) - skip
    for ours, theirs in zip(rest, whole[skip:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("count", "batch", "drop", "length"), [(11, 3, False, 4), (11, 3, True, 3), (2, 5, False, 1)])
def test_length(count: int, batch: int, drop: bool, length: int) -> None:
    loader = make(count, batch_size=batch, drop_last=drop)
    assert len(loader) == length == len(batches(loader))


def test_nothing_to_load_is_said() -> None:
    with pytest.raises(UserError, match="leaves nothing of 2 images"):
        make(2, batch_size=5, drop_last=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_sample_raises_arrives_as_one_line(workers: int) -> None:
    with pytest.raises(BrokenImage) as caught:
        batches(make(workers=workers, bad=7))
    assert str(caught.value) == "image 7.jpg: the file is empty"


def test_leaving_early_leaves_no_worker_behind() -> None:
    before = set(multiprocessing.active_children())
    epoch = make(200, workers=2).epoch()
    next(epoch)
    assert set(multiprocessing.active_children()) - before
    epoch.close()
    assert not set(multiprocessing.active_children()) - before


def test_a_program_that_leaves_a_loader_open_ends() -> None:
    code = "from tests.data.test_loader import make; e = make(200, workers=2).epoch(); next(e); raise SystemExit(3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS, check=False)
    assert done.returncode == 3


def test_places_have_seeds_of_their_own() -> None:
    seeds = {derive(seed, kind, epoch, i) for seed in (0, 1) for kind in (0, 1) for epoch in (0, 1) for i in range(50)}
    assert len(seeds) == 2 * 2 * 2 * 50
