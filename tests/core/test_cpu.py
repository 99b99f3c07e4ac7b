"""What other processes do, by the files of the system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.core import cpu
from ppcls_ext.core.cpu import Busy, Watch

MUCH = 1e9  # seconds, more than any core has used


def write_times(stat: Path, user: int, idle: int, waiting: int, stolen: int, guest: int = 0) -> None:
    """Write seconds of processor time as Linux does: guests are in the time of users already."""
    ticks = [second * os.sysconf("SC_CLK_TCK") for second in (user, 0, 0, idle, waiting, 0, 0, stolen, guest, 0)]
    stat.write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3\n")


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Since its making seven seconds were used on all cores, and two were stolen."""
    stat = tmp_path / "stat"
    write_times(stat, user=100, idle=50, waiting=10, stolen=1)
    watch = Watch(stat)
    write_times(stat, user=107, idle=90, waiting=20, stolen=3, guest=5)
    return watch


def test_neither_idle_nor_stolen_time_is_use(watch: Watch) -> None:
    found = watch.busy(ours=0.0)
    assert found.others / found.stolen == pytest.approx(7 / 2)
    assert found.taken == found.others + found.stolen


def test_what_is_ours_is_not_others(watch: Watch) -> None:
    found = watch.busy(ours=5.0)
    assert found.others / found.stolen == pytest.approx((7 - 5) / 2)
    assert watch.busy(ours=MUCH).others == 0


def test_this_process_is_ours_unless_said_otherwise(watch: Watch) -> None:
    start = sum(os.times()[:4])
    while sum(os.times()[:4]) < start + 0.05:
        pass
    found = watch.busy()
    assert found.others / found.stolen < 7 / 2


@pytest.mark.parametrize("content", [None, "", "cpu  1 2 3\n", "intr 1 2 3 4 5 6 7 8\n"])
def test_a_system_that_does_not_tell_is_taken_for_idle(tmp_path: Path, content: str | None) -> None:
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    assert Watch(stat).busy() == Busy(0, 0)


CPUINFO = (
    "processor\t: 0\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    "flags\t\t: fpu fma avx2\n\n"
)


def test_processors_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format(1) + CPUINFO.format(49))
    monkeypatch.setattr(cpu, "CPUINFO", file)
    assert (cpu.cpu_model(), cpu.cpu_flags()) == ("AMD EPYC", ["avx2", "fma"])
    assert cpu.cpuid() == "family 25 model 1 stepping 1"
    file.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert cpu.cpuid() == "implementer 0x41 part 0xd0c"
    file.unlink()
    assert cpu.cpuid() == ""
