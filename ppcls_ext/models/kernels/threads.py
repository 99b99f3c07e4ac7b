"""How threads share the parts of a kernel's work."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from ppcls_ext.core.device import kernel_threads
from ppcls_ext.upstream.onednn import one_openmp_thread

PARTS_PER_THREAD = 8  # so that a thread that another process holds up leaves its share to the others
LEAST_BYTES = 2**19  # parts of the first array are no smaller, since each is a call that holds the interpreter's lock

_paddles_threads = cache(kernel_threads)  # they stay what they were when Paddle was imported


# What is entered around each kernel, with the kernel and its arguments: a profile sets it.
Observer = Callable[[Callable[..., None], tuple[Any, ...]], contextlib.AbstractContextManager[Any]]
_observers: list[Observer] = []


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """While this lasts, every kernel runs inside what the observer gives for it."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def split(kernel: Callable[..., None], threads: int, count: int, *arguments: Any) -> None:
    """Run a kernel on `count` parts; threads take some at a time, until none is left."""
    if not _observers:
        _run(kernel, threads, count, arguments)
        return
    with contextlib.ExitStack() as around:
        for observer in _observers:
            around.enter_context(observer(kernel, arguments))
        _run(kernel, threads, count, arguments)


def _run(kernel: Callable[..., None], threads: int, count: int, arguments: tuple[Any, ...]) -> None:
    if threads == _paddles_threads() == 1:
        kernel(0, count, *arguments)
        return
    pieces = min(count, PARTS_PER_THREAD * threads, max(threads, arguments[0].nbytes // LEAST_BYTES))
    with one_openmp_thread():
        # Where another thread of this process is at it, this one works alone.
        if min(threads, pieces) <= 1 or not _sharing.acquire(blocking=False):
            kernel(0, count, *arguments)
            return
        try:
            ends = [count * piece // pieces for piece in range(pieces + 1)]
            _shared(lambda start, end: kernel(start, end, *arguments), ends, _helpers(threads - 1))
        finally:
            _sharing.release()


_sharing = threading.Lock()


def _shared(run: Callable[[int, int], None], ends: list[int], helpers: Sequence[_Helper]) -> None:
    """Run all pieces, here and in helpers. It waits for pieces that a helper has begun, not for helpers that are late:
    to wake a thread can take longer than a small kernel.
    """
    left = iter(list(itertools.pairwise(ends)))
    finished = itertools.count(1)  # taking the next of either is one step, which no other thread can come between
    all_done = threading.Lock()
    all_done.acquire()
    failures: list[BaseException] = []

    def work() -> None:
        for start, end in left:
            try:
                run(start, end)
            except BaseException as error:
                failures.append(error)
            if next(finished) == len(ends) - 1:
                all_done.release()

    try:
        for helper in helpers:
            helper.help_with(work)
        work()
        all_done.acquire()
    except BaseException:  # Ctrl-C: arrays are the memory of tensors, which may be gone once this returns
        for _ in left:  # nobody begins another piece
            pass
        for helper in helpers:
            helper.stop()
        raise
    for helper in helpers:
        helper.work = None  # it holds what the kernel was given
    if failures:
        raise failures[0]


class _Helper:
    """A thread that helps with work for which it is woken."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        self._wake = threading.Lock()  # released where it is to look at `work`
        self._wake.acquire()
        self._busy = threading.Lock()  # held while it works
        threading.Thread(target=self._serve, name="pplcnet-kernels", daemon=True).start()

    def help_with(self, work: Callable[[], None]) -> None:
        """Have the thread call this as soon as it can; what it was to do before and has not begun is forgotten."""
        self.work = work
        if self._wake.locked():
            self._wake.release()

    def _serve(self) -> None:
        with one_openmp_thread():
            while True:
                self._wake.acquire()
                with self._busy:
                    work = self.work
                    if work is not None:
                        work()
                    del work

    def stop(self) -> None:
        """Wait until it has done what it has begun; it begins nothing more."""
        self.work = None
        while True:
            try:
                with self._busy:
                    return
            except KeyboardInterrupt:  # another one: a kernel takes milliseconds
                continue


@cache
def _helpers(count: int) -> list[_Helper]:
    return [_Helper() for _ in range(count)]


def _after_fork_in_child() -> None:
    """A forked process has no threads but the one that forked it: it would wait for the others for ever."""
    global _sharing
    _helpers.cache_clear()
    _sharing = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
