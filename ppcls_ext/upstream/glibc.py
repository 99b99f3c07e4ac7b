"""Workarounds for how the C library of Linux hands out memory."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

# By which users set what is set here, see mallopt(3).
VARIABLES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
TUNABLES = "GLIBC_TUNABLES"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1  # what mallopt takes

_lock = threading.Lock()
_kept = 0  # bytes that callers have asked for so far, the most of them; -1 is all


def keep_freed_memory(most: int | None = None, one_heap: bool = False) -> None:
    """glibc gives large blocks back to the system as soon as they are freed, and the next ones are pages that the
    kernel has to clear first. paddle 3.2.2 asks for each tensor anew, in training and in inference, so that every layer
    of every step or call pays that; opencv 4.12 does so for each decoded image, where it is a third of the time of a
    photo of 12 megapixels. Here the C library keeps what was freed, for the rest of the process. Where the environment
    sets up the C library, that stands. Can go when both cache memory by themselves.

    It is best called once what stays for good is there: until then, large blocks lie in mappings of their own and leave
    no gaps between what stays. A training that asks for it after its first step needs less memory.

    Of several callers in a process the one that asks for most is served, in whatever order they come: a `Predictor` on
    another engine must not take from Paddle's what it keeps.

    Args:
        most: bytes at the end of the heap that are kept; more goes back to the system. None keeps all.
        one_heap: threads that come later have no heaps of their own, of which each holds 64 MB at most and gives back
            what a large image took.
    """
    tuned = any(name in os.environ for name in VARIABLES) or "glibc.malloc" in os.environ.get(TUNABLES, "")
    if tuned or platform.libc_ver()[0] != "glibc":
        return
    global _kept
    mallopt = ctypes.CDLL(None).mallopt
    with _lock:
        _kept = -1 if most is None or _kept < 0 else max(_kept, min(most, _LARGEST))
        mallopt(_M_MMAP_MAX, 0)  # no blocks in mappings of their own, which are always given back
        mallopt(_M_TRIM_THRESHOLD, _kept)
        if one_heap:
            mallopt(_M_ARENA_MAX, 1)
