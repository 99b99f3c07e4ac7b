"""The machine under a measurement: what it is, and what else it does meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ppcls_ext.core.cpu import cpu_flags, cpu_model, cpuinfo
from ppcls_ext.core.device import usable_cores

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
        busy = sum(times[:8]) - idle - stolen  # guests follow, which these include
        return time.monotonic(), busy, stolen

    def interval(self, ours: float) -> Interval:
        """How busy the machine was with other things since this watch was made.

        Args:
            ours: seconds of processor time that the measured processes and this one have used meanwhile.
        """
        (start, busy, stolen), (end, busy_now, stolen_now) = self._start, self._read()
        seconds = max(end - start, 1e-3)
        return Interval(max(0.0, busy_now - busy - ours) / seconds, (stolen_now - stolen) / seconds)
