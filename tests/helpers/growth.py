"""What a long run takes in each third of its time, and whether it grows by the rule of `pplcnet benchmark --soak`."""

from __future__ import annotations

import ctypes
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from ppcls_ext.bench.soak import growing

LEAST_SAMPLES = 12


class Sample(NamedTuple):
    """What a process and its children use at a moment."""

    rss_mb: float  # of the process alone: children share pages with it
    in_use_mb: float  # what the C library has handed out; 0 where the process is another one. Shown, not judged
    files: int
    threads: int


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc, see mallinfo(3)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def in_use_mb() -> float:
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
        in_use_mb() if process.pid == psutil.Process().pid else 0.0,
        sum(one.num_fds() for one in every),
        sum(one.num_threads() for one in every),
    )


def report(samples: Sequence[Sample], what: str) -> int:
    """Print the median of each third of the samples, after a tenth of them; gives the exit status.

    That is 1 for growth in the last two thirds, 2 where there are too few samples, else 0. In the first third, freed
    memory that stays with the process is still getting gaps that nothing fits into.
    """
    if len(samples) < LEAST_SAMPLES:
        print(f"{what}: too short for a verdict", file=sys.stderr)
        return 2
    kept = samples[len(samples) // 10 :]
    third = len(kept) // 3
    for name in Sample._fields:
        parts = [[getattr(one, name) for one in kept[k * third : (k + 1) * third]] for k in range(3)]
        of_third = [statistics.median(part) for part in parts]
        print(f"{name}: {of_third[0]:.1f} in the first third, {of_third[1]:.1f}, {of_third[2]:.1f} in the last")
    found = growing([one._asdict() for one in samples[len(samples) // 3 :]])
    print(f"{what}, {len(kept)} samples: {' and '.join(found) + ' growing' if found else 'steady'}")
    return 1 if found else 0
