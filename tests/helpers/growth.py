"""Whether a long run takes ever more memory, open files, threads or processes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

import psutil

MOST_GROWTH = 0.02  # of the memory, from the first third to the last


class Sample(NamedTuple):
    """What a training and its workers use at a moment."""

    megabytes: float  # resident, of the training process alone: workers share pages with it
    files: int
    threads: int
    processes: int


def sample(process: psutil.Process) -> Sample:
    """The use of a process; files and threads are those of its workers, too."""
    every = [process, *process.children(recursive=True)]
    return Sample(
        process.memory_info().rss / 2**20,
        sum(one.num_fds() for one in every),
        sum(one.num_threads() for one in every),
        len(every),
    )


def report(samples: Sequence[Sample], what: str) -> int:
    """Print how the last third of the samples differs from the first, after a tenth of them; 1 for growth, else 0."""
    kept = samples[len(samples) // 10 :]
    third = len(kept) // 3
    if third < 3:
        sys.exit(f"{what}: too short for a verdict")
    parts = [kept[:third], kept[third : 2 * third], kept[-third:]]
    growth = False
    for name in Sample._fields:
        first, middle, last = (statistics.median(getattr(one, name) for one in part) for part in parts)
        growth |= last > first * (1 + MOST_GROWTH if name == "megabytes" else 1)
        print(f"{name}: {first:.1f} in the first third, {middle:.1f}, {last:.1f} in the last")
    print(f"{what}, {len(kept)} samples: {'growth' if growth else 'flat'}")
    return 1 if growth else 0
