"""Whether a long run takes ever more memory, open files, threads or processes."""

from __future__ import annotations

import ctypes
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import psutil

MOST_GROWTH = 0.02  # of the memory, from one third to the next


class Sample(NamedTuple):
    """What a process and its children use at a moment."""

    megabytes: float  # resident, of the process alone: children share pages with it
    in_use: float  # megabytes that the C library has handed out; 0 where the process is another one
    files: int
    threads: int
    processes: int


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc, see mallinfo(3)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def in_use() -> float:
    """Megabytes that the C library has handed out in this process; 0 where it does not say so."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0.0
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return float((found.uordblks + found.hblkhd) / 2**20)


def sample(process: psutil.Process) -> Sample:
    """The use of a process; files and threads are those of its children, too."""
    every = [process, *process.children(recursive=True)]
    return Sample(
        process.memory_info().rss / 2**20,
        in_use() if process.pid == psutil.Process().pid else 0.0,
        sum(one.num_fds() for one in every),
        sum(one.num_threads() for one in every),
        len(every),
    )


def report(samples: Sequence[Sample], what: str) -> int:
    """Print what each third of the samples has, after a tenth of them; gives the exit status.

    That is 1 for growth, 2 where there are too few samples, else 0.

    Memory is compared from the second third to the last one: what was freed stays with the process, and at first there
    are ever more gaps in it that nothing fits into. Of all else the least of each third counts: workers come and go,
    and Paddle frees what is in use in lots of 32 MB.
    """
    kept = samples[len(samples) // 10 :]
    third = len(kept) // 3
    if third < 3:
        print(f"{what}: too short for a verdict", file=sys.stderr)
        return 2
    parts = [kept[:third], kept[third : 2 * third], kept[-third:]]
    growth = False
    for name in Sample._fields:
        of_third = statistics.median if name == "megabytes" else min
        first, middle, last = (of_third(getattr(one, name) for one in part) for part in parts)
        before = middle if name == "megabytes" else max(first, middle) if name == "in_use" else first
        growth |= last > before * (1 + MOST_GROWTH if name in ("megabytes", "in_use") else 1)
        print(f"{name}: {first:.1f} in the first third, {middle:.1f}, {last:.1f} in the last")
    print(f"{what}, {len(kept)} samples: {'growth' if growth else 'flat'}")
    return 1 if growth else 0
