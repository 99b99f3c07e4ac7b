"""The machine under a measurement."""

from __future__ import annotations

import os
import platform
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
