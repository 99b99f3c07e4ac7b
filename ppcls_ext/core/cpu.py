"""Which processor this is, read from files of the system alone."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

# Instruction sets that decide which kernels the engines take.
FLAGS_THAT_MATTER = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")


def cpuinfo(key: str) -> str:
    """A line of /proc/cpuinfo by what it begins with; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Which of `FLAGS_THAT_MATTER` the processor has."""
    flags = set(cpuinfo("flags").split())
    return [flag for flag in FLAGS_THAT_MATTER if flag in flags]


class OthersWatch:
    """How many cores other processes use, from its making to `cores`, by the files of the system alone."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds of the clock, of all cores in use, and of this process with its ended children; None: not told."""
        try:
            first, *numbers = Path("/proc/stat").read_text().splitlines()[0].split()
        except (OSError, IndexError):
            return None
        if first != "cpu" or len(numbers) < 5:
            return None
        ticks = [int(number) for number in numbers[:8]]  # guests follow, which these include
        in_use = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # neither idle nor waiting
        return time.monotonic(), in_use, sum(os.times()[:4])

    def cores(self) -> float:
        """A mean number of cores; 0 where the system does not tell. Children count as ours once they have ended."""
        now = self._read()
        if self._start is None or now is None:
            return 0.0
        seconds, in_use, ours = (end - start for start, end in zip(self._start, now, strict=True))
        return max(0.0, in_use - ours) / max(seconds, 1e-3)
