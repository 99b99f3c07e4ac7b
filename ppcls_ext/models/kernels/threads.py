"""How threads share the parts of a kernel's work."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from ppcls_ext.core.device import kernel_threads
from ppcls_ext.upstream.onednn import use_one_openmp_thread


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=use_one_openmp_thread)


# A forked process has no threads but the one that forked it: it would wait for those of the pool for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)

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
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    left = iter(list(itertools.pairwise(ends)))

    def work() -> None:
        for start, end in left:
            kernel(start, end, *arguments)

    for done in [_pool(threads).submit(work) for _ in range(threads)]:
        done.result()
