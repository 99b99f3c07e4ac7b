"""Free memory: what control groups allow counts, wherever their files are."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ppcls_ext.core.memory import free_memory

SMALL = 1_000_000  # bytes; less than any machine that runs tests has free


@pytest.mark.parametrize(
    ("line", "place", "names", "reclaimable"),
    [
        ("0::/job/step", "job", ("memory.max", "memory.current", "memory.stat"), "inactive_file 300"),
        ("0::/elsewhere", ".", ("memory.max", "memory.current", "memory.stat"), "inactive_file 300"),
        (
            "4:memory:/job/step",
            "memory/job/step",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
            "total_inactive_file 300",
        ),
    ],
)
def test_a_limit_of_a_control_group_counts(
    tmp_path: Path, line: str, place: str, names: tuple[str, str, str], reclaimable: str
) -> None:
    (tmp_path / "membership").write_text(f"9:name=systemd:/\n{line}\n")
    folder = tmp_path / "groups" / place
    folder.mkdir(parents=True)
    for name, content in zip(names, (f"{SMALL}\n", "400", f"anon 7\n{reclaimable}\n"), strict=True):
        (folder / name).write_text(content)
    assert free_memory(tmp_path / "membership", tmp_path / "groups") == SMALL - 400 + 300


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_without_a_limit_the_machine_decides(tmp_path: Path, limit: str) -> None:
    (tmp_path / "membership").write_text("0::/job\n")
    (tmp_path / "groups/job").mkdir(parents=True)
    for name, content in (("memory.max", limit), ("memory.current", "4"), ("memory.stat", "inactive_file 3")):
        (tmp_path / "groups/job" / name).write_text(content)
    assert SMALL < free_memory(tmp_path / "membership", tmp_path / "groups") <= psutil.virtual_memory().total


def test_where_there_are_no_control_groups_the_machine_decides(tmp_path: Path) -> None:
    assert SMALL < free_memory(tmp_path / "none", tmp_path) <= psutil.virtual_memory().total
