"""Files of results: whole after a crash at any step, and never in place of what is no regular file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.cls.results import ClassResult
from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy import results_file
from ppcls_ext.deploy.encoders import ENCODERS, Encoder
from ppcls_ext.deploy.results_file import ResultsFile, interrupted_run
from ppcls_ext.runtime.inference import Inference

RUN = {"model": "a", "images": 5}


class Labels(Inference):
    """As much of a task as a file of results needs."""

    columns = ("rank", "label", "class", "score")
    column_types = (int, str, int, float)

    def __init__(self) -> None:
        pass

    prepare = check_outputs = difference = result = None  # type: ignore[assignment]


def some_results() -> list[ClassResult]:
    """Two classes, an image that cannot be read, nothing found, a name with what the formats must quote."""
    two = {"labels": ("a", "b"), "classes": (0, 1), "scores": (0.75, 0.25)}
    return [
        ClassResult(source="0.jpg", **two),
        ClassResult(source="1.jpg", error="image 1.jpg: empty"),
        ClassResult(source="2.jpg"),
        ClassResult(source='3, "three"\n.jpg', **two),
        ClassResult(source=os.fsdecode(b"4\xff.jpg"), **two),
    ]


@pytest.fixture(params=sorted(ENCODERS))
def form(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def encoder_of(form: str) -> Encoder:
    return ENCODERS[form](Labels())


def write_all(path: Path, form: str, resume: bool = False, encoder: Encoder | None = None) -> int:
    """Write the rest of all results; gives how many have an error."""
    sink = ResultsFile(path, encoder or encoder_of(form), lambda: RUN, resume)
    try:
        for result in some_results()[sink.done :]:
            sink.write(result)
        sink.finish()
    finally:
        sink.close()
    return sink.failed


def rows_in(path: Path, form: str) -> Any:
    if form != "parquet":
        return path.read_bytes()
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


class Death:
    """Counts the steps of a process that change files, and kills it at one of them."""

    def __init__(self, step: int, part: Path) -> None:
        self.left, self.part = step, part

    def comes(self) -> bool:
        self.left -= 1
        return self.left == 0

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            if self.comes():
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return step

    def amid(self, drain: Callable[[], bytes]) -> Callable[[], bytes]:
        """The system has written the first half of what is appended."""

        def step() -> bytes:
            data = drain()
            if self.comes():
                with open(self.part, "ab") as file:
                    file.write(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return data

        return step


def killed_at(step: int, path: Path, form: str) -> bool:
    """Write all results in a process that dies at a step, after each result of which the file is brought up to date;
    gives whether it died."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            results_file.COMMIT_SECONDS = 0.0
            death = Death(step, path.with_name(f"{path.name}.part"))
            for name in ("fsync", "replace", "ftruncate"):
                setattr(os, name, death.before(getattr(os, name)))
            Path.unlink = death.before(Path.unlink)  # type: ignore[method-assign]
            encoder = encoder_of(form)
            encoder.drain = death.amid(encoder.drain)  # type: ignore[method-assign]
            with contextlib.suppress(UserError):  # an earlier one was killed when the file was whole
                write_all(path, form, True, encoder)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


@pytest.mark.slow
def test_a_run_killed_at_any_step_ends_with_the_same_rows(form: str, tmp_path: Path) -> None:
    expected, path = tmp_path / "expected", tmp_path / "killed"
    assert write_all(expected, form) == 1
    for step in itertools.count(1):
        if not killed_at(step, path, form):
            break
        if path.exists() and not path.with_name("killed.part").exists():
            with pytest.raises(UserError, match="is whole, there is nothing to resume"):
                write_all(path, form, True)
        else:
            assert write_all(path, form, True) == 1
        assert rows_in(path, form) == rows_in(expected, form), step
        assert sorted(file.name for file in tmp_path.iterdir()) == ["expected", "killed"], step
        path.unlink()
    assert step > 20


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends(form: str, tmp_path: Path) -> None:
    """So many steps are enough for a result, and for what follows the last one."""
    expected, path = tmp_path / "expected", tmp_path / "killed"
    write_all(expected, form)
    deaths = 0
    while killed_at(18, path, form):
        deaths += 1
        assert deaths < 20
    assert deaths > 1
    assert rows_in(path, form) == rows_in(expected, form)


def test_each_image_has_a_row(form: str, tmp_path: Path) -> None:
    path = tmp_path / "r"
    write_all(path, form)
    if form == "csv":
        lines = path.read_bytes().splitlines()
        assert lines[0] == b"image,rank,label,class,score,error"
        assert lines[3:5] == [b"1.jpg,,,,,image 1.jpg: empty", b"2.jpg,,,,,"]
        assert lines[-1] == b"4\xff.jpg,2,b,1,0.25,"
    elif form == "jsonl":
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["image"] for line in found] == [result.source for result in some_results()]
        assert [line["error"] for line in found] == [None, "image 1.jpg: empty", None, None, None]
    else:
        found = rows_in(path, form)
        assert found[1] == {"image": "0.jpg", "rank": 2, "label": "b", "class": 1, "score": 0.25, "error": None}
        assert [row["image"] for row in found[-2:]] == ["4\\udcff.jpg"] * 2


def interrupted(path: Path, results: Sequence[ClassResult], run: dict[str, Any] | None = RUN) -> None:
    """Leave what a run leaves that has written some results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_file, "MOST_WAITING", 1)  # each result is stored at once
        sink = ResultsFile(path, encoder_of("csv"), None if run is None else lambda: run, False)
        for result in results:
            sink.write(result)
        sink.close()


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("earlier")
    interrupted(path, some_results()[:2])
    assert path.read_text() == "earlier"
    write_all(path, "csv", resume=True)
    assert path.read_bytes().startswith(b"image,")


def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    interrupted(path, some_results()[:2])
    with pytest.raises(UserError, match=r"has 2 of 5 images of an interrupted run; go on with --resume, or delete it"):
        ResultsFile(path, encoder_of("csv"), lambda: RUN, False)
    with pytest.raises(UserError, match=r"begun with other images \(5, now 6\)"):
        ResultsFile(path, encoder_of("csv"), lambda: {**RUN, "images": 6}, True)
    (tmp_path / "r.csv.part").write_text("")
    with pytest.raises(UserError, match="has lost bytes"):
        ResultsFile(path, encoder_of("csv"), lambda: RUN, True)
    (tmp_path / "r.csv.part.json").write_text("{}")
    with pytest.raises(UserError, match="is not as infer wrote it"):
        ResultsFile(path, encoder_of("csv"), lambda: RUN, True)


def test_a_run_that_cannot_be_resumed_keeps_what_an_interrupted_one_has(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    interrupted(path, some_results()[:2])
    with pytest.raises(UserError, match="has 2 of 5 images of an interrupted run; go on with --resume, or delete it"):
        ResultsFile(path, encoder_of("csv"), None, False)
    write_all(path, "csv", resume=True)
    assert path.read_bytes().startswith(b"image,")


def test_a_run_that_cannot_be_resumed_leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "r.csv", some_results()[:2], run=None)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    first = ResultsFile(tmp_path / "r.csv", encoder_of("csv"), lambda: RUN, False)
    with pytest.raises(UserError, match="another process is writing it"):
        ResultsFile(tmp_path / "r.csv", encoder_of("csv"), lambda: RUN, True)
    first.close()


def test_a_symlink_keeps_pointing_where_it_did(form: str, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "r")
    write_all(link, form)
    assert link.is_symlink()
    assert [file.name for file in (tmp_path / "far").iterdir()] == ["r"]


def test_what_is_no_regular_file_is_not_written_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    os.mkfifo(tmp_path / "r.csv.part")
    for name, kind in (("fifo", "FIFO"), ("folder", "folder"), ("link", "FIFO"), ("r.csv", "FIFO")):
        with pytest.raises(UserError, match=f"is a {kind} and is not written over"):
            ResultsFile(tmp_path / name, encoder_of("csv"), lambda: RUN, False)
    assert (tmp_path / "fifo").is_fifo()


def test_parquet_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow; python -m pip install 'pplcnet\[parquet\]'"):
        encoder_of("parquet")


def test_what_a_run_depends_on_is_noted_as_it_is_known_when_results_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the engine that `auto` takes for the first image."""
    monkeypatch.setattr(results_file, "COMMIT_SECONDS", 0.0)
    path, run = tmp_path / "r.csv", {**RUN, "engine": "auto"}
    assert interrupted_run(path) == {}
    sink = ResultsFile(path, encoder_of("csv"), lambda: run, False)
    assert interrupted_run(path)["engine"] == "auto"
    run["engine"] = "native"
    sink.write(ClassResult(source="0.jpg"))
    sink.close()
    assert interrupted_run(path) == {**RUN, "engine": "native"}
    with pytest.raises(UserError, match=r"begun with other engine \(native, now onednn\)"):
        ResultsFile(path, encoder_of("csv"), lambda: {**RUN, "engine": "onednn"}, True)
    ResultsFile(path, encoder_of("csv"), lambda: run, True).close()


def test_whoever_deletes_the_part_begins_anew(tmp_path: Path) -> None:
    """As messages advise; what was noted of it counts no more."""
    path = tmp_path / "r.csv"
    interrupted(path, some_results()[:2])
    (tmp_path / "r.csv.part").unlink()
    assert interrupted_run(path) == {}
    sink = ResultsFile(path, encoder_of("csv"), lambda: {**RUN, "model": "b"}, True)
    assert sink.done == 0
    sink.close()


def test_a_run_of_an_earlier_version_has_noted_no_format(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    interrupted(path, some_results()[:2])
    ResultsFile(path, encoder_of("csv"), lambda: {**RUN, "model format": "onnx"}, True).close()
