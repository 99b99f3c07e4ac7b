"""Control groups of Linux: those that this process is in, of both versions, by the files of the system alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MEMBERSHIP = Path("/proc/self/cgroup")  # which groups this process is in
GROUPS = Path("/sys/fs/cgroup")  # where the files of all groups are


class Group(NamedTuple):
    """A group that this process is in, itself or by one below it."""

    folder: Path
    version: int  # 1 or 2


def groups_above(controller: str, membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> Iterator[Group]:
    """The groups of a controller (`memory`, `cpu`) whose limits hold for this process; none where there is no Linux."""
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in entries:
        if controllers and controller not in controllers.split(","):
            continue
        root, version = (groups / controller, 1) if controllers else (groups, 2)
        # A limit further up holds as well. A container may see its own group at the root, under another path.
        folder = root / path.lstrip("/")
        for above in [folder, *folder.parents]:
            yield Group(above, version)
            if above == root:
                break


def cores_left(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> float:
    """How many cores the quotas of control groups leave to this process; infinity without a quota."""
    quotas = [_quota(group) for group in groups_above("cpu", membership, groups)]
    return min([quota for quota in quotas if quota is not None], default=float("inf"))


def _quota(group: Group) -> float | None:
    try:
        if group.version == 2:
            quota, period = (group.folder / "cpu.max").read_text().split()
        else:
            quota, period = ((group.folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
