"""The thread that owns an engine has images wait for those that are on their way, where that is worth it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from ppcls_ext.runtime.owner import Arrays, EngineOwner, Run, Work
from tests.helpers.processes import wait_until

SECONDS = 60


class Clock:
    """Seconds that go by only while a batch runs: `run_s` each."""

    def __init__(self, run_s: float) -> None:
        self.run_s, self.now = run_s, 0.0
        self.batches: list[int] = []

    def open(self) -> Run:
        return self.run

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        self.now += self.run_s
        self.batches.append(len(inputs[0]))
        return list(inputs)


def split(outputs: Arrays, images: int) -> list[list[np.ndarray]]:
    return [[outputs[0][k]] for k in range(images)]


def work() -> Work:
    return Work([np.zeros(1, np.float32)])


@pytest.fixture
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(request.param)
    monkeypatch.setattr("ppcls_ext.runtime.owner.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.fixture
def owner(clock: Clock) -> Iterator[EngineOwner]:
    """It has run one batch, and so knows how long that takes."""
    owner = EngineOwner(clock.open, split, batch=4, fixed=False)
    owner.put(work()).result(SECONDS)
    clock.batches.clear()
    yield owner
    owner.close()


def arrivals(owner: EngineOwner, images: Sequence[Work]) -> None:
    for image in images:
        owner.put_announced(image)


@pytest.mark.parametrize("clock", [0.0], indirect=True)
def test_a_thread_that_waits_holds_no_batch(clock: Clock, owner: EngineOwner) -> None:
    image = work()
    held = weakref.ref(image.inputs[0])
    owner.put(image).result(SECONDS)
    del image
    wait_until(lambda: held() is None)


@pytest.mark.parametrize("clock", [1000.0], indirect=True)
def test_images_wait_while_more_are_on_their_way(clock: Clock, owner: EngineOwner) -> None:
    images = [work() for _ in range(4)]
    for _ in images:
        owner.announce()
    arrivals(owner, images[:2])  # the first one alone would have been run alone
    images[1].done.result(SECONDS)
    assert clock.batches == [2]
    arrivals(owner, images[2:3])
    images[2].done.result(SECONDS)  # one here, and one on its way: nothing to wait for
    assert clock.batches == [2, 1]
    arrivals(owner, images[3:])
    images[3].done.result(SECONDS)
    assert clock.batches == [2, 1, 1]


@pytest.mark.parametrize("clock", [1000.0], indirect=True)
def test_no_batch_grows_beyond_what_the_network_takes(clock: Clock, owner: EngineOwner) -> None:
    images = [work() for _ in range(20)]
    for _ in images:
        owner.announce()
    arrivals(owner, images[:4])
    images[3].done.result(SECONDS)
    assert clock.batches == [4]
    arrivals(owner, images[4:])
    images[-1].done.result(SECONDS)
    assert sum(clock.batches) == 20


@pytest.mark.parametrize("clock", [0.0], indirect=True)
def test_an_image_waits_no_longer_than_a_batch_takes(clock: Clock, owner: EngineOwner) -> None:
    for _ in range(4):
        owner.announce()
    image = work()
    owner.put_announced(image)
    image.done.result(SECONDS)  # the other three never come
    assert clock.batches == [1]


@pytest.mark.parametrize("clock", [1000.0], indirect=True)
def test_images_that_will_never_come_are_not_waited_for(clock: Clock, owner: EngineOwner) -> None:
    for _ in range(3):
        owner.announce()
    image = work()
    owner.put_announced(image)
    owner.withdraw()  # could not be read; one is still on its way
    image.done.result(SECONDS)
    owner.withdraw()
    assert clock.batches == [1]


@pytest.mark.parametrize("clock", [1000.0], indirect=True)
def test_an_image_is_alone_when_no_other_one_waits_or_is_on_its_way(clock: Clock, owner: EngineOwner) -> None:
    owner.announce()
    owner.announce()
    assert not owner.withdraw_if_alone()
    image = work()
    owner.put_announced(image)
    image.done.result(SECONDS)
    assert owner.withdraw_if_alone()
    owner.announce()
    assert owner.withdraw_if_alone()  # so it was withdrawn


@pytest.mark.parametrize("clock", [1000.0], indirect=True)
def test_nothing_waits_once_it_is_closed(clock: Clock) -> None:
    owner = EngineOwner(clock.open, split, batch=4, fixed=False)
    owner.put(work()).result(SECONDS)
    for _ in range(3):
        owner.announce()
    image = work()
    owner.put_announced(image)
    owner.close()
    assert image.done.done()
