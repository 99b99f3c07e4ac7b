"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys
import {module}
from ppcls_ext.upstream.glibc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        {call}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{setup}
faults()
fresh = faults()
keep_freed_memory(2**28)
# The heap grows to what is needed, and again where something small that stays was put into what was free.
print(fresh, min(faults() for _ in range(10)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "setup", "call"),
    [
        ("paddle", "x = paddle.ones([64, 1024, 1024 // 4])", "paddle.nn.functional.relu(x)"),
        (
            "cv2, numpy",
            "x = cv2.imencode('.jpg', numpy.zeros((3000, 4000, 3), numpy.uint8))[1]",
            "cv2.imdecode(x, cv2.IMREAD_COLOR)",
        ),
    ],
    ids=["Paddle", "OpenCV"],
)
def test_freed_memory_is_used_again(module: str, setup: str, call: str) -> None:
    """Starts a process, whose C library is set up for good."""
    program = PAGE_FAULTS.format(module=module, setup=setup, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    assert kept < 0.01 * fresh


HEAP_FAULTS = """
import resource
from ppcls_ext.upstream.glibc import keep_freed_memory

for most in {asked}:
    keep_freed_memory(most)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**26)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ([2**20], False),
        ([2**27], True),
        ([None, 2**20], True),
        ([2**20, None], True),
        ([2**27, 2**20], True),
        ([2**20, 2**27], True),
    ],
)
def test_who_asks_to_keep_most_is_served_in_any_order(asked: list[int | None], kept: bool) -> None:
    """Starts a process, whose C library is set up for good."""
    program = HEAP_FAULTS.format(asked=asked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (float(done.stdout) < 0.01) == kept
