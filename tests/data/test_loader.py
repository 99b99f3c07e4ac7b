"""Batches: the order is a function of seed and epoch, and nothing depends on who prepares them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import BrokenImage
from ppcls_ext.core.seeding import derive, order
from tests.helpers.loaders import batches, make
from tests.helpers.processes import ROOT, SECONDS


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_sample_raises_arrives_as_one_line(workers: int) -> None:
    with pytest.raises(BrokenImage) as caught:
        batches(make(workers=workers, bad=7))
    assert str(caught.value) == "image 7.jpg: the file is empty"


@pytest.mark.slow
def test_leaving_early_leaves_no_worker_behind() -> None:
    before = set(multiprocessing.active_children())
    epoch = make(200, workers=2).epoch()
    next(epoch)
    assert set(multiprocessing.active_children()) - before
    epoch.close()
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.slow
def test_a_program_that_leaves_a_loader_open_ends() -> None:
    code = "from tests.helpers.loaders import make; e = make(200, workers=2).epoch(); next(e); raise SystemExit(3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS, check=False)
    assert done.returncode == 3


def test_places_have_seeds_of_their_own() -> None:
    seeds = {derive(seed, kind, epoch, i) for seed in (0, 1) for kind in (0, 1) for epoch in (0, 1) for i in range(50)}
    assert len(seeds) == 2 * 2 * 2 * 50


def test_the_time_that_is_spent_waiting_is_counted() -> None:
    loader = make()
    assert loader.waited == 0.0
    batches(loader)
    once = loader.waited
    assert once > 0.0
    batches(loader)
    assert loader.waited > once


@pytest.mark.slow
def test_an_epoch_that_was_prepared_ahead_is_the_same() -> None:
    loader = make(workers=2)
    found = [[batch[0].numpy() for batch in loader.epoch(epoch, ahead=True)] for epoch in range(3)]
    assert multiprocessing.active_children()
    loader.close()
    assert not multiprocessing.active_children()
    for epoch, ours in enumerate(found):
        for one, other in zip(ours, batches(make(), epoch), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_another_epoch_than_the_one_prepared_can_be_entered() -> None:
    loader = make(workers=2)
    list(loader.epoch(0, ahead=True))
    np.testing.assert_array_equal(batches(loader, 1, skip=2)[0], batches(make(), 1, skip=2)[0])
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_killed_worker_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """As the system does it when memory runs out. Slow: worker processes."""
    found = make(count=400, workers=2).epoch()
    next(found)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(UserError, match="a process that prepares images was killed by SIGKILL, most likely for memory"):
        list(found)
    assert "exit unexpectedly" not in capfd.readouterr().err
