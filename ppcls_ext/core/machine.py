"""The machine under a measurement: what it is, what it can do, and what else it does meanwhile."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from ppcls_ext.core.cpu import cpu_flags, cpu_model, cpuinfo
from ppcls_ext.core.device import usable_cores

PEAK_SIZES = (256, 512, 1024)  # sides of square matrices; which size runs fastest depends on the caches
PEAK_SECONDS = 0.3  # each size is measured this long
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine() -> dict[str, Any]:
    """What a figure must be read with. `governor` is None where the system does not show one."""
    governor = GOVERNOR.read_text().strip() if GOVERNOR.is_file() else None
    return {
        "cpu": cpu_model(),
        "flags": cpu_flags(),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "hypervisor": "hypervisor" in cpuinfo("flags").split(),
        "governor": governor,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
        "mkl_debug_cpu_type": os.environ.get("MKL_DEBUG_CPU_TYPE"),  # see ppcls_ext.upstream.paddle.let_mkl_use_avx2
    }


@dataclass(frozen=True)
class Interval:
    """Processor time between two readings, as a mean number of cores."""

    others: float  # used by processes that are not ours
    stolen: float  # taken by the hypervisor


class Watch:
    """Reads how busy the machine is with other things, from its making to `interval`."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        stolen = getattr(times, "steal", 0.0)
        return time.monotonic(), sum(times[:8]) - idle - stolen, stolen  # beyond 8 are guests, counted in user

    def interval(self, ours: float) -> Interval:
        """Args: ours: seconds of processor time that the measured processes and this one have used meanwhile."""
        (start, busy, stolen), (end, busy_now, stolen_now) = self._start, self._read()
        seconds = max(end - start, 1e-3)
        return Interval(max(0.0, busy_now - busy - ours) / seconds, (stolen_now - stolen) / seconds)


def peak_gflops(threads: int) -> float:
    """GFLOP/s that this machine shows on a float32 matrix product with so many threads: the best of many."""
    rng = np.random.default_rng(0)
    best = 0.0
    with threadpool_limits(threads):
        for size in PEAK_SIZES:
            a, b = rng.standard_normal((2, size, size), dtype=np.float32)
            end = time.perf_counter() + PEAK_SECONDS
            while (start := time.perf_counter()) < end:
                a @ b
                best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


COPIED_BYTES = 256 * 2**20  # far more than caches hold


def memory_gbps(threads: int) -> float:
    """GB/s, read and written together, that this machine shows when so many threads copy: the best of a few times."""
    source = np.ones(COPIED_BYTES // 8)
    goal = np.empty_like(source)
    parts = list(zip(np.array_split(goal, threads), np.array_split(source, threads), strict=True))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            best = max(best, 2 * COPIED_BYTES / (time.perf_counter() - start) / 1e9)
    return best
