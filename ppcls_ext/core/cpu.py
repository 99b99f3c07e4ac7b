"""Which processor this is, and what else uses it, read from files of the system alone."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

# Instruction sets that decide which kernels the engines take.
FLAGS_THAT_MATTER = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")

CPUINFO = Path("/proc/cpuinfo")
# Lines that tell processors of one name apart, as virtual machines give it; the later ones are those of ARM.
TELLING = ("cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision")


def cpuinfo(key: str) -> str:
    """What /proc/cpuinfo has for a key, of the first core; empty where there is none."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Which of `FLAGS_THAT_MATTER` the processor has."""
    flags = set(cpuinfo("flags").split())
    return [flag for flag in FLAGS_THAT_MATTER if flag in flags]


def cpuid() -> str:
    """Which processor of its name it is: family, model and stepping in words; empty where the system does not tell."""
    found = ((key, cpuinfo(key)) for key in TELLING)
    return " ".join(f"{key.split()[-1]} {value}" for key, value in found if value)


@dataclass(frozen=True)
class Busy:
    """Processor time between two readings, as a mean number of cores; 0 where the system does not tell."""

    others: float  # used by processes that are not ours
    stolen: float  # taken by the hypervisor

    @property
    def taken(self) -> float:
        """What was not there for us."""
        return self.others + self.stolen


class Watch:
    """Reads how busy the machine is with other things, from its making to `busy`.

    Args:
        stat: the system's file of processor times.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._start = self._read()

    def _read(self) -> tuple[float, float, float, float] | None:
        """Seconds of the clock, of all cores in use, of those stolen, and of this process with its ended children."""
        try:
            first, *numbers = self._stat.read_text().splitlines()[0].split()
        except (OSError, IndexError):
            return None
        if first != "cpu" or len(numbers) < 8:
            return None
        ticks = [int(number) / os.sysconf("SC_CLK_TCK") for number in numbers[:8]]  # guests follow, which these include
        _, _, _, idle, waiting, _, _, stolen = ticks
        return time.monotonic(), sum(ticks) - idle - waiting - stolen, stolen, sum(os.times()[:4])

    def busy(self, ours: float | None = None) -> Busy:
        """How busy the machine was with other things since this watch was made.

        Args:
            ours: seconds of processor time that what counts as ours has used meanwhile; default: those of this process
                and of its children that have ended.
        """
        now = self._read()
        if self._start is None or now is None:
            return Busy(0.0, 0.0)
        seconds, used, stolen, own = (end - start for start, end in zip(self._start, now, strict=True))
        seconds = max(seconds, 1e-3)
        return Busy(max(0.0, used - (own if ours is None else ours)) / seconds, stolen / seconds)
