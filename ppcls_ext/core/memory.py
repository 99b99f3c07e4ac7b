"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _GroupFiles(NamedTuple):
    """What the files of a control group are called, in one version of them."""

    limit: str
    used: str
    reclaimable: str  # a line of memory.stat: pages of files, which the system takes back before anything is killed


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def free_memory(membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that are free on the machine, or that the limits of its control groups leave to this process.

    Args:
        membership: the file that says which control groups this process is in.
        groups: where the files of all groups are.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(membership, groups)]))


def _left_by_groups(membership: Path, groups: Path) -> Iterator[int]:
    """What each control group above this process leaves of its limit."""
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # this system is not Linux
        return
    for _, controllers, path in entries:
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (groups / "memory", _VERSION_1) if controllers else (groups, _VERSION_2)
        # A limit further up holds as well. A container may see its own group at the root, under another path.
        folder = root / path.lstrip("/")
        for place in [folder, *folder.parents]:
            left = _left_by_group(place, files)
            if left is not None:
                yield left
            if place == root:
                break


def _left_by_group(folder: Path, files: _GroupFiles) -> int | None:
    """None where the group has no limit, or its files are not there."""
    try:
        limit = (folder / files.limit).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / files.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(stat.get(files.reclaimable, 0))
    except (OSError, ValueError):
        return None
