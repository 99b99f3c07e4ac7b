"""Which processor this is, by the files of the system alone."""

from __future__ import annotations

import platform
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
    """Those of `FLAGS_THAT_MATTER` that the processor has."""
    flags = set(cpuinfo("flags").split())
    return [flag for flag in FLAGS_THAT_MATTER if flag in flags]
