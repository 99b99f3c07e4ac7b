"""What several threads put down for another one is taken once, whatever they do at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from ppcls_ext.runtime.handover import Handover
from tests.helpers.processes import SECONDS

THINGS, THREADS = 2000, 4


@pytest.fixture
def _hasty() -> Iterator[None]:
    """Threads take turns after each few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty")
def test_everything_is_taken_once_and_each_wake_is_for_something() -> None:
    handover: Handover[tuple[int, int]] = Handover()
    woken = threading.Semaphore(0)

    def put(thread: int) -> None:
        for number in range(THINGS):
            if handover.put((thread, number)):
                woken.release()

    threads = [threading.Thread(target=put, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    taken: list[tuple[int, int]] = []
    while len(taken) < THREADS * THINGS:
        assert woken.acquire(timeout=SECONDS), f"nobody takes what follows the first {len(taken)}"
        new = list(handover.take())
        assert new
        taken += new
    for thread in threads:
        thread.join()
    assert sorted(taken) == [(thread, number) for thread in range(THREADS) for number in range(THINGS)]
    for thread in range(THREADS):
        assert [number for one, number in taken if one == thread] == list(range(THINGS))


def test_only_the_first_has_to_wake() -> None:
    handover: Handover[int] = Handover()
    assert [handover.put(k) for k in range(3)] == [True, False, False]
    taking = handover.take()
    assert next(taking) == 0
    assert not handover.put(3)  # it is taken on the way
    assert list(taking) == [1, 2, 3]
    assert handover.put(4)
