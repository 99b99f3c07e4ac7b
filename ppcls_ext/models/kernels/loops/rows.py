"""Rows of flat arrays.

No slices in inner loops: each would be counted as a reference. And unsigned indices, which need no test for counting
from the end of an array; with it, LLVM uses no vectors.
"""

from __future__ import annotations

import numpy as np

from ppcls_ext.models.kernels.loops.compiling import Compiled
from ppcls_ext.models.kernels.loops.vectors import LANES, first, load, store

# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.


@Compiled
def copy(source, start, step, goal, to, count):
    """goal[to + i] = source[start + i * step], for so many i."""
    start, to, step = np.uint64(start), np.uint64(to), np.uint64(step)
    if step == 1:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i]
    elif step == 2:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i + i]
    else:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i * step]


@Compiled
def copy_row(source, start, goal, to, count, may_spill):
    """goal[to + i] = source[start + i], for so many i, by vectors that overlap.

    Args:
        may_spill: what follows in `goal`, up to the end of a vector, may become zeros, if it is as short a row.
    """
    if count >= LANES:
        for i in range(0, count, LANES):
            place = min(i, count - LANES)
            store(goal, to + place, load(source, start + place))
    elif may_spill and start + LANES <= len(source) and to + LANES <= len(goal):
        store(goal, to, first(load(source, start), count))
    else:
        for i in range(count):
            goal[to + i] = source[start + i]


@Compiled
def copy_apart(source, start, goal, to, step, count):
    """The opposite of `copy`: goal[to + i * step] = source[start + i]."""
    start, to, step = np.uint64(start), np.uint64(to), np.uint64(step)
    if step == 1:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i]
    else:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i * step] = source[start + i]


@Compiled
def fill(goal, to, count):
    """Zeros."""
    to = np.uint64(to)
    for i in range(np.uint64(max(count, 0))):
        goal[to + i] = np.float32(0)
