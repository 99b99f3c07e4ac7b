"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

from ppcls_ext.core.cgroups import GROUPS, MEMBERSHIP, Group, groups_above


class _GroupFiles(NamedTuple):
    """What the files of a control group are called, in one version of them."""

    limit: str
    used: str
    reclaimable: str  # a line of memory.stat: pages of files, which the system takes back before anything is killed


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def free_memory(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """Bytes of memory that are free on the machine, or that the limits of its control groups leave to this process.

    Args:
        membership, groups: see `ppcls_ext.core.cgroups`.
    """
    left = [_left_by_group(group) for group in groups_above("memory", membership, groups)]
    return max(0, min([psutil.virtual_memory().available, *(of for of in left if of is not None)]))


def _left_by_group(group: Group) -> int | None:
    """None where the group has no limit, or its files are not there."""
    folder, files = group.folder, _VERSION_1 if group.version == 1 else _VERSION_2
    try:
        limit = (folder / files.limit).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / files.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(stat.get(files.reclaimable, 0))
    except (OSError, ValueError):
        return None
