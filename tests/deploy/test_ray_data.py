"""`pplcnet infer --ray`: the rows of one process, whole after an actor or all of it was killed. Needs `make ray`."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core import locks
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.system import NoLocks
from ppcls_ext.deploy import ray_data
from tests.helpers.processes import SECONDS

MANY = 3000  # images that take two actors some seconds

pytestmark = pytest.mark.slow
needs_ray = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('ray')", reason="needs make ray")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "usable_cores", lambda: 2)


@pytest.fixture
def many(data: Path, tmp_path: Path) -> Path:
    """A folder with the same few images under many names."""
    folder = tmp_path / "many"
    folder.mkdir()
    images = sorted((data / "val").rglob("*.png"))
    for number in range(MANY):
        (folder / f"{number:05}.png").symlink_to(images[number % len(images)])
    return folder


def rows_of(results: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted(results.glob("*.parquet")) if results.is_dir() else [results]
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: (row["image"], row["rank"] or 0))


def started(line: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ppcls_ext.cli", *line], start_new_session=True)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """What a condition gives once it is true, while a process still runs."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "it ended before"
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true in time")


def actors_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    def is_actor(child: psutil.Process) -> bool:
        try:
            return "PredictBlock" in " ".join(child.cmdline())
        except psutil.Error:
            return False

    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_actor(child)]


def blocks_done(results: Path) -> list[Path]:
    return [file for file in (results / ray_data.DONE_FOLDER).glob("*.parquet") if ".pending" not in file.name]


def assert_each_once(results: Path, many: Path) -> None:
    counts = Counter(row["image"] for row in rows_of(results))
    assert counts == {str(file): 2 for file in many.iterdir()}  # two classes each


@needs_ray
def test_two_actors_give_the_rows_of_one_process(
    exported: Path,
    data: Path,
    tmp_path: Path,
    two_cores: None,
    capfd: pytest.CaptureFixture[str],
    fails: Callable[..., str],
) -> None:
    """Ray takes ten seconds to start and to stop."""
    shutil.copytree(data / "val", tmp_path / "val")
    (tmp_path / "val" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    line = ["infer", "-m", str(exported), "-i", str(tmp_path / "val"), "--format", "parquet", "--save"]
    assert main([*line, str(tmp_path / "one")]) == UserError.exit_status
    capfd.readouterr()
    assert main([*line, str(tmp_path / "two"), "--ray"]) == UserError.exit_status
    *_, result, skipped = capfd.readouterr().err.splitlines()
    assert result == f"results: {tmp_path / 'two'}"
    assert skipped.startswith(f"skipped: image {tmp_path / 'val/red/broken.png'}: ")
    expected, found = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    order = [row.pop("id") for row in found]
    assert found == expected
    assert order == sorted(order)  # the images were given sorted
    assert len(blocks_done(tmp_path / "two")) == len(list((tmp_path / "two").glob("*.parquet"))) == 16
    again = [*line, tmp_path / "two", "--ray"]
    assert "has results already; go on with --resume" in fails(*again)
    assert "begun with other options" in fails(*again, "--resume", "--topk", "1")
    assert "begun with other shard (none, now 1/2)" in fails(*again, "--resume", "--shard", "1/2", lines=2)


@needs_ray
def test_an_actor_that_is_killed_loses_and_repeats_nothing(exported: Path, many: Path, tmp_path: Path) -> None:
    """Ray takes ten seconds to start and to stop."""
    results = tmp_path / "results"
    run = started(
        ["infer", "-m", str(exported), "-i", str(many), "--format", "parquet", "--save", str(results), "--ray"]
    )
    wait_for(lambda: blocks_done(results), run)
    victim = actors_of(run)[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: len(blocks_done(results)) > 1, run)  # it had not come to its end
    assert run.wait(SECONDS) == 0
    assert_each_once(results, many)


@needs_ray
def test_a_rerun_skips_what_is_done(exported: Path, many: Path, tmp_path: Path) -> None:
    """Ray takes ten seconds to start and to stop, twice."""
    results = tmp_path / "results"
    line = ["infer", "-m", str(exported), "-i", str(many), "--format", "parquet", "--save", str(results), "--ray"]
    run = started(line)
    wait_for(lambda: len(blocks_done(results)) > 1, run)
    children = psutil.Process(run.pid).children(recursive=True)
    for process in [psutil.Process(run.pid), *children]:
        process.kill()
    psutil.wait_procs(children, SECONDS)
    run.wait(SECONDS)
    done = {file.name for file in blocks_done(results)}
    before = {
        file: file.stat().st_mtime_ns for file in results.glob("*.parquet") if file.name.replace("-0.", ".") in done
    }
    assert before
    assert main([*line, "--resume"]) == 0
    assert_each_once(results, many)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_without_ray_one_line_says_what_is_missing(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = ("infer", "-m", exported, "-i", data / "val", "--ray", "--format", "parquet", "--save", tmp_path / "r")
    assert "needs Ray Data; python -m pip install 'pplcnet[ray]', or make ray" in fails(*line)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_a_line(address: str) -> None:
    """Ray itself would try again for minutes, without a word."""
    with pytest.raises(UserError, match=f"infer --ray {address}: "):
        ray_data._check_reachable(address)


@pytest.mark.parametrize(("cpus", "threads", "actors"), [([4], 1, 2), ([4, 4], 3, 2), ([2 + 8], 4, 2)])
def test_actors_leave_room_for_the_tasks_of_ray(cpus: list[int], threads: int, actors: int) -> None:
    assert ray_data._actors(cluster(cpus), threads) == actors


@pytest.mark.parametrize(
    ("cpus", "threads", "clue"),
    [([4], 4, "can have so many; give 2"), ([4, 4], 5, "can have so many; give 4"), ([2], 1, "need 2 processors")],
)
def test_an_actor_that_would_wait_for_ever_is_refused(cpus: list[int], threads: int, clue: str) -> None:
    with pytest.raises(UserError, match=clue):
        ray_data._actors(cluster(cpus), threads)


def cluster(cpus: list[int]) -> Any:
    """What Ray tells of a cluster whose nodes have so many processors."""
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]
    return SimpleNamespace(cluster_resources=lambda: {"CPU": float(sum(cpus))}, nodes=lambda: nodes)


def test_a_file_system_without_locks_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def none(_: object) -> bool:
        raise NoLocks(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(locks, "try_lock", none)
    run = ray_data.RayRun(tmp_path, ray_data.LOCAL, tmp_path / "results", {}, {})
    with ray_data.own_folder(run, {}):
        pass
    assert f"{tmp_path / 'results'}: no lock there (Operation not supported)" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[]", b"", b"{"])
def test_a_damaged_note_of_a_run_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "_run.json").write_bytes(content)
    (tmp_path / "rows.parquet").touch()
    run = ray_data.RayRun(tmp_path, ray_data.LOCAL, tmp_path, {}, {}, resume=True)
    with pytest.raises(UserError, match="is not as infer wrote it"), ray_data.own_folder(run, {}):
        pass


def test_a_note_without_results_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "_run.json").write_text("{")  # its process was killed while it wrote
    run = ray_data.RayRun(tmp_path, ray_data.LOCAL, tmp_path, {}, {}, resume=True)
    with ray_data.own_folder(run, {"model": "a"}):
        assert (tmp_path / "_run.json").read_text().strip() == '{\n "model": "a"\n}'


def test_flags_that_do_not_go_with_ray(exported: Path, data: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    line = ("infer", "-m", exported, "-i", data / "val", "--ray")
    assert "--format parquet --save FOLDER" in fails(*line, "--format", "csv", "--save", tmp_path / "r")
    assert "--format parquet --save FOLDER" in fails(*line, "--format", "parquet")
    whole = (*line, "--format", "parquet", "--save", tmp_path / "r")
    assert "not with --ray" in fails(*whole, "--draw", tmp_path / "d")
