"""`ppcls_ext.models.kernels.threads`: every part of a kernel's work is done once, whoever does it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from ppcls_ext.models.kernels import threads
from ppcls_ext.models.kernels.threads import split
from tests.helpers.processes import SECONDS

COUNT = 1000
LARGE = np.zeros(2**22, np.float32)  # so that there are many parts


class Kernel:
    """Counts how often each part is done, and by which threads."""

    def __init__(self, before: Callable[[int], None] = lambda start: None) -> None:
        self.done = np.zeros(COUNT, np.int64)
        self.threads: set[int] = set()
        self._before = before

    def __call__(self, start: int, end: int, array: np.ndarray) -> None:
        self.threads.add(threading.get_ident())
        self._before(start)
        self.done[start:end] += 1


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("array", [LARGE, LARGE[:1]], ids=["many parts", "few parts"])
def test_every_part_is_done_once(number: int, array: np.ndarray) -> None:
    for _ in range(50):
        kernel = Kernel()
        split(kernel, number, COUNT, array)
        assert (kernel.done == 1).all()


def test_a_thread_that_was_woken_helps() -> None:
    """The first part waits until the other thread has begun one."""
    both = threading.Barrier(2, timeout=SECONDS)
    first_two = iter(range(2))

    def meet(start: int) -> None:
        if next(first_two, None) is not None:
            both.wait()

    kernel = Kernel(meet)
    split(kernel, 2, COUNT, LARGE)
    assert (kernel.done == 1).all()
    assert len(kernel.threads) == 2
    assert threading.get_ident() in kernel.threads


def test_nobody_waits_for_a_thread_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        work = None

        def help_with(self, work: Callable[[], None]) -> None:
            pass

    monkeypatch.setattr(threads, "_helpers", lambda count: [Late()] * count)
    kernel = Kernel()
    split(kernel, 2, COUNT, LARGE)
    assert (kernel.done == 1).all()
    assert kernel.threads == {threading.get_ident()}


def test_an_error_is_raised_once_all_parts_are_done_and_the_next_kernel_runs() -> None:
    def fail(start: int) -> None:
        if start == 0:
            raise ValueError("wrong shape")

    kernel = Kernel(fail)
    with pytest.raises(ValueError, match="wrong shape"):
        split(kernel, 2, COUNT, LARGE)
    first = int(kernel.done.argmax())
    assert first > 0
    assert (kernel.done[:first] == 0).all()
    assert (kernel.done[first:] == 1).all()
    test_every_part_is_done_once(2, LARGE)


def test_kernels_of_several_threads_do_not_wait_for_each_other() -> None:
    inside, go = threading.Event(), threading.Event()

    def hold(start: int) -> None:
        inside.set()
        assert go.wait(SECONDS)

    first, second = Kernel(hold), Kernel()
    other = threading.Thread(target=split, args=(first, 2, COUNT, LARGE))
    other.start()
    assert inside.wait(SECONDS)
    split(second, 2, COUNT, LARGE)
    assert second.threads == {threading.get_ident()}
    go.set()
    other.join(SECONDS)
    assert (first.done == 1).all()
    assert (second.done == 1).all()


def test_whoever_is_interrupted_waits_for_what_a_helper_has_begun() -> None:
    """Arrays are the memory of tensors, which may be gone once the interrupt has gone through."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    class Interrupt:
        """In the place of a helper: the user's Ctrl-C, once the other helper has begun."""

        def help_with(self, work: Callable[[], None]) -> None:
            assert begun.wait(SECONDS)
            threading.Timer(0.1, go.set).start()
            raise KeyboardInterrupt

        def stop(self) -> None:
            pass

    def part(start: int, end: int) -> None:
        begun.set()
        assert go.wait(SECONDS)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        threads._shared(part, [0, 1, 2, 3], [threads._helpers(1)[0], Interrupt()])  # type: ignore[list-item]
    assert ended.is_set()
    test_every_part_is_done_once(2, LARGE)
