"""Control groups: quotas of processor time count, wherever their files are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ppcls_ext.core.cgroups import cores_left


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/job/step", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5),
        ("0::/job/step", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "50000 100000"}, 0.5),
        ("0::/elsewhere", {"cpu.max": "200000 100000"}, 2),
        ("2:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "50000"}, 2),
        ("2:cpu:/job", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/job", {"job/cpu.max": "100000 0"}, math.inf),
        ("3:memory:/job", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, math.inf),
    ],
)
def test_the_narrowest_quota_above_this_process_counts(
    tmp_path: Path, line: str, files: dict[str, str], cores: float
) -> None:
    (tmp_path / "membership").write_text(f"9:name=systemd:/\n{line}\n")
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{content}\n")
    assert cores_left(tmp_path / "membership", tmp_path / "groups") == cores


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores_left(tmp_path / "none", tmp_path) == math.inf
