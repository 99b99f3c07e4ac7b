"""`pplcnet infer`: forms of output, broken files, flags that do not go together."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppcls_ext.cli import infer
from ppcls_ext.cli.main import main
from ppcls_ext.cls.results import ClassResult
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import accepted_keys
from ppcls_ext.deploy import infer as deploy_infer
from ppcls_ext.deploy import results_file
from ppcls_ext.runtime import predictor
from ppcls_ext.runtime.choice import EngineChoice
from ppcls_ext.tasks.finding import load_task
from tests.helpers.configs import overrides
from tests.helpers.help import help_of
from tests.helpers.processes import command, forked_to_its_end

pytestmark = pytest.mark.slow

Fails = Callable[..., str]
TASKS = ("classification", "detection", "segmentation")


def test_infer_forms_agree(exported: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(data / "val" / "red")
    assert main(["infer", "-m", str(exported), "-i", folder, "--format", "json", "--draw", str(tmp_path / "d")]) == 0
    results = json.loads(capfd.readouterr().out)
    assert [Path(r["image"]).name for r in results] == [f"0{i}.png" for i in range(5)]
    assert len(results[0]["predictions"]) == 2  # Infer.PostProcess.topk of the config
    assert len(list((tmp_path / "d").glob("*.png"))) == 5
    saved = tmp_path / "r.csv"
    line = ["infer", "-m", str(exported), "-i", f"{folder}/*.png", "--format", "csv", "--batch", "4", "--topk", "1"]
    assert main([*line, "--save", str(saved)]) == 0
    rows = saved.read_text().splitlines()
    assert rows[0] == "image,rank,label,class,score,error"
    assert [row.split(",")[2] for row in rows[1:]] == [r["predictions"][0]["label"] for r in results]
    assert main(["infer", "-m", str(exported), "-i", folder]) == 0
    table = capfd.readouterr().out.splitlines()
    assert table[0] == f"images in {folder}"
    assert [line.split()[1] for line in table if ".png" in line] == [f"0{i}.png" for i in range(5) for _ in range(2)]


def test_a_table_in_a_pipe_is_not_folded(exported: Path, data: Path, tmp_path: Path) -> None:
    name = "a photograph with a long name " * 6 + ".png"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(data / "val" / "red" / "00.png", tmp_path / folder / name)
    done = command("infer", "-m", exported, "-i", "one", "two", cwd=tmp_path, check=True)
    assert f"one/{name}" in done.stdout
    assert f"two/{name}" in done.stdout


def test_infer_names_skips_and_counts_broken_files(
    exported: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes((data / "val/red/00.png").read_bytes()[:100])
    status = main(["infer", "-m", str(exported), "-i", str(tmp_path), str(data / "val/red"), "--format", "csv"])
    out, err = capfd.readouterr()
    assert status == UserError.exit_status
    assert f"skipped: image {tmp_path / 'broken.png'}" in err
    _, broken, *rows = out.splitlines()
    assert broken.startswith(f"{tmp_path / 'broken.png'},,,,,image {tmp_path / 'broken.png'}: ")
    assert len(rows) == 5 * 2


@contextlib.contextmanager
def killed_after_a_few_images() -> Iterator[None]:
    results_file.COMMIT_SECONDS = 0.0
    fsync, calls = os.fsync, 0

    def counted(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:  # the header takes four, and then each image two
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = counted  # type: ignore[assignment]
    yield


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_killed_run_is_resumed(
    form: str, exported: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], fails: Fails
) -> None:
    saved, whole = tmp_path / "r", tmp_path / "whole"
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", form]
    errors = tmp_path / "stderr.txt"
    status = forked_to_its_end([*line, "--save", saved], errors, killed_after_a_few_images())
    assert status == -signal.SIGKILL, errors.read_text()
    errors.unlink()
    assert "has 3 of 15 images of an interrupted run" in fails(*line, "--save", saved)
    assert "begun with other options" in fails(*line, "--save", saved, "--resume", "--topk", "1")
    fewer = ["infer", "-m", exported, "-i", data / "val/red", "--format", form, "--save", saved, "--resume"]
    assert "begun with other images (15, now 5)" in fails(*fewer)
    assert main([*line, "--save", str(saved), "--resume"]) == 0
    assert "going on after 3 of 15 images" in capfd.readouterr().err
    assert main([*line, "--save", str(whole)]) == 0
    assert saved.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r", "whole"]


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_keeps_the_engine_and_format_that_auto_took(
    task: str,
    exported: Path,
    exports: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whether auto chose before the first image or, of a segmenter of free size, for it."""
    folder = exported if task == "classification" else exports[task]
    last_format = {"classification": "pdmodel"}.get(task, "json")  # of those that native runs, which takes the first
    taken = EngineChoice("native", last_format, "as in a test")
    monkeypatch.setattr(predictor, "choose_fastest", lambda *_: taken)
    monkeypatch.setattr(predictor, "check_auto", lambda _: None)
    line = ["infer", "-m", str(folder), "-i", str(data / "val"), "--format", "csv", "--save"]
    line += [str(tmp_path / "r"), "--engine", "auto", "--threads", "1"]
    forked_to_its_end(line, tmp_path / "stderr.txt", killed_after_a_few_images())
    run = json.loads((tmp_path / "r.part.json").read_text())["run"]
    assert (run["engine"], run["model format"]) == ("native", last_format)

    opened: list[tuple[str, str]] = []
    own = predictor.open_engine
    monkeypatch.setattr(predictor, "choose_fastest", lambda *_: pytest.fail("an engine was chosen"))
    monkeypatch.setattr(
        predictor, "open_engine", lambda name, *given: (opened.append((name, given[-1])), own(name, *given))[1]
    )
    assert main([*line, "--resume"]) == 0
    assert opened == [("native", last_format)]
    assert "going on after 3 of 15 images" in capfd.readouterr().err


def test_a_run_whose_engine_auto_cannot_go_on_with_says_so(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    saved = tmp_path / "r"
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", "csv", "--save", str(saved)]
    forked_to_its_end([*line, "--engine", "native"], tmp_path / "stderr.txt", killed_after_a_few_images())
    monkeypatch.setattr(predictor, "choose_fastest", lambda *_: pytest.fail("an engine was chosen"))
    note = tmp_path / "r.part.json"
    begun = note.read_text()
    for engine, why in (
        ("onednn-bf16", "which auto never takes; name it with --engine"),
        ("nativ", "with which auto goes on: engine 'nativ' is unknown; did you mean 'native'?"),
    ):
        note.write_text(begun.replace('"native"', f'"{engine}"'))
        message = fails(*line, "--engine", "auto", "--resume")
        assert f"{saved} was begun with engine {engine}, {why}" in message


def test_only_images_of_the_same_sizes_are_taken_by_a_resumed_run(
    exported: Path, data: Path, tmp_path: Path, fails: Fails
) -> None:
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", "csv", "--save", str(tmp_path / "r")]
    forked_to_its_end(line, tmp_path / "stderr.txt", killed_after_a_few_images())
    assert "begun with other max_pixels (none, now 9999)" in fails(*line, "--resume", "--max-pixels", "9999")


def test_a_picture_that_cannot_be_written_is_written_by_the_resumed_run(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", "csv", "--save", str(tmp_path / "r")]
    line += ["--draw", str(tmp_path / "drawn")]
    monkeypatch.setattr(results_file, "COMMIT_SECONDS", 0.0)
    own = ClassResult.write_pictures
    monkeypatch.setattr(ClassResult, "write_pictures", no_space)
    assert main([*line]) == 2
    monkeypatch.setattr(ClassResult, "write_pictures", own)
    assert main([*line, "--resume"]) == 0
    assert [file.name[:4] for file in sorted((tmp_path / "drawn").iterdir())] == [f"{n:04d}" for n in range(1, 16)]


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_is_said_before_a_network_is_opened(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """With --engine auto, opening takes half a minute the first time."""
    (tmp_path / "whole").write_text("image,rank\n")
    monkeypatch.setattr(deploy_infer, "Predictor", lambda *_, **__: pytest.fail("a network was opened"))
    line = ["infer", "-m", exported, "--engine", "auto", "-i"]
    good = [*line, data / "val"]
    assert "no such file or folder" in fails(*line, "nowhere.jpg")
    assert "this task writes table, json" in fails(*good, "--format", "xml")
    assert "is whole" in fails(*good, "--format", "csv", "--save", tmp_path / "whole", "--resume")
    assert "whole is no folder to write in" in fails(*good, "--draw", tmp_path / "whole")
    assert "whole is no folder to write in" in fails(*good, "--draw", tmp_path / "whole" / "deep")
    assert "no such file or folder" in fails(*line, "nowhere.jpg", "--draw", tmp_path / "new" / "deep")
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]


def test_shares_are_the_whole_list_once(exported: Path, data: Path, tmp_path: Path) -> None:
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", "csv", "--topk", "1", "--save"]
    assert main([*line, str(tmp_path / "whole")]) == 0
    for share in range(1, 21):  # of 15 images: some are empty
        assert main([*line, str(tmp_path / f"{share}"), "--shard", f"{share}/20"]) == 0
    (head, *rows), *shares = ((tmp_path / name).read_text().splitlines() for name in ("whole", *map(str, range(1, 21))))
    assert all(share[0] == head for share in shares)
    assert [head] in shares
    assert sorted(row for share in shares for row in share[1:]) == rows


def test_only_the_same_share_is_resumed(exported: Path, data: Path, tmp_path: Path, fails: Fails) -> None:
    line = ["infer", "-m", str(exported), "-i", str(data / "val"), "--format", "csv", "--save", str(tmp_path / "r")]
    forked_to_its_end([*line, "--shard", "1/2"], tmp_path / "stderr.txt", killed_after_a_few_images())
    assert json.loads((tmp_path / "r.part.json").read_text())["run"]["shard"] == "1/2"
    for other in ("2/2", "1/3"):
        message = fails(*line, "--resume", "--shard", other, lines=2)
        assert f"begun with other shard (1/2, now {other})" in message
    assert "begun with other shard (1/2, now none)" in fails(*line, "--resume")
    assert main([*line, "--resume", "--shard", "1/2"]) == 0


def test_what_is_no_share_is_one_line(exported: Path, data: Path, fails: Fails) -> None:
    for shard, says in (("0/4", "counted from 1 to N"), ("5/4", "counted from 1 to N"), ("a/b", "expected I/N")):
        assert f"--shard {shard}: " in (message := fails("infer", "-m", exported, "-i", data / "val", "--shard", shard))
        assert says in message


def test_nothing_is_shown_beside_the_error_of_a_single_image(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    assert main(["infer", "-m", str(exported), "-i", str(tmp_path / "broken.png")]) == UserError.exit_status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"skipped: image {tmp_path / 'broken.png'}: the file is empty; replace the file or remove it from the list"
    ]


def test_files_of_results_that_cannot_be(
    exported: Path, trained: Path, data: Path, tmp_path: Path, fails: Fails
) -> None:
    line = ["infer", "-m", exported, "-i", data / "val/red/00.png", "--format"]
    os.mkfifo(tmp_path / "fifo")
    for form in ("json", "csv"):
        assert "fifo is a FIFO and is not written over" in fails(*line, form, "--save", tmp_path / "fifo")
    assert (tmp_path / "fifo").is_fifo()
    assert "needs a file" in fails(*line, "parquet")
    assert "infer --resume goes on with" in fails(*line, "csv", "--resume")
    assert "infer --resume goes on with" in fails(*line, "json", "--resume", "--save", tmp_path / "r")


def test_bad_calls_of_infer(exported: Path, trained: Path, tmp_path: Path, data: Path, fails: Fails) -> None:
    image = str(data / "val/red/00.png")
    assert "either an exported folder" in fails("infer", "-i", image)
    assert "needs images" in fails("infer", "-m", exported)
    assert "no inference.yml" in fails("infer", "-m", tmp_path, "-i", image)
    assert "no such file or folder; fix the path" in fails("infer", "-m", exported, "-i", "nothing.jpg")
    assert "did you mean 'onednn'?" in fails("infer", "-m", exported, "-i", image, "--engine", "onedn")
    assert "infer --threshold: not a flag of classification; it has --topk" in fails(
        "infer", "-m", exported, "-i", image, "--threshold", "0.5"
    )
    assert "table, json, csv, jsonl, parquet" in fails("infer", "-m", exported, "-i", image, "--format", "xml")
    (exported.parent / "legacy_only").mkdir(exist_ok=True)
    (exported.parent / "legacy_only" / "inference.yml").write_text((exported / "inference.yml").read_text())
    missing = fails("infer", "-m", exported.parent / "legacy_only", "-i", image)
    assert "needs the json format" in missing


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_names_that_are_not_utf8_spoil_no_results(form: str, exported: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(data / "val/red/00.png", os.fsencode(tmp_path / "in") + b"/caf\xe9.png")
    line = ("infer", "-m", exported, "-i", tmp_path / "in", "--format", form)
    assert main([*map(str, line), "--save", str(tmp_path / "r")]) == 0
    text = (tmp_path / "r").read_bytes()
    if form == "csv":
        assert b"caf\xe9.png" in text
    else:
        assert r"caf\udce9.png" in text.decode()  # which JSON reads back to the name that Python has for it
        read = json.loads(text.decode().splitlines()[0]) if form == "jsonl" else json.loads(text)[0]
        assert os.fsencode(read["image"]).endswith(b"caf\xe9.png")


def test_pictures_of_long_names_are_cut_to_what_a_file_may_be_called(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    name = "猫" * 83  # 249 bytes
    shutil.copy(data / "val/red/00.png", tmp_path / f"{name}.png")
    assert main(["infer", "-m", str(exported), "-i", str(tmp_path / f"{name}.png"), "--draw", str(tmp_path / "d")]) == 0
    assert [file.name for file in (tmp_path / "d").iterdir()] == [f"0001_{'猫' * 66}.png"]


@pytest.mark.parametrize(
    ("setting", "clue"),
    [
        ("Infer=5", "Infer: expected keys and values, got 5"),
        ("Infer.infer_imgs=5", "Infer.infer_imgs: expected a path or a list of them, got 5"),
        ("Infer.infer_imgs=[5]", "Infer.infer_imgs: expected a path or a list of them, got [5]"),
        ("Infer.batch_size=abc", "Infer.batch_size: expected a whole number from 1 to 65536, got 'abc'"),
    ],
)
def test_a_section_of_something_else_is_one_line(setting: str, clue: str, data: Path, fails: Fails) -> None:
    images = [] if "imgs" in setting else ["-i", data / "val/red/00.png"]
    assert clue in fails("infer", "-c", "my_images", "-o", setting, *images)


def test_nothing_else_is_written_on_a_normal_run(exported: Path, data: Path, tmp_path: Path) -> None:
    done = command("infer", "-m", exported, "-i", data / "val/red/00.png", "--format", "csv", cwd=tmp_path)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", TASKS)
def test_the_help_names_the_flags_and_formats_of_every_task(task: str) -> None:
    inference = load_task(task).inference
    shown = help_of("infer")
    assert all(form in shown.partition("write the results as ")[2].partition("(default")[0] for form in inference.forms)
    assert accepted_keys(inference) - {"recipe"} <= set(infer.TASK_FLAGS)


def test_flags_that_do_not_go_together(exported: Path, trained: Path, data: Path, fails: Fails) -> None:
    image = data / "val/red/00.png"
    assert "use it with -m" in fails("infer", "-c", trained, "-i", image, "--engine", "native")
    assert "use it with -m" in fails("infer", "-c", trained, "-i", image, "--max-pixels", "9")
    assert "add --engine" in fails("infer", "-m", exported, "-i", image, "--allow-reduced")
    reduced = ("infer", "-m", exported, "-i", image, "--engine", "onednn-bf16")
    assert "infer --allow-reduced" in fails(*reduced)
    assert main([*map(str, reduced), "--allow-reduced"]) == 0
    assert "use it with -c" in fails("infer", "-m", exported, "-i", image, "-o", "Global.epochs=1")
    assert "add --format json" in fails("infer", "-m", exported, "-i", image, "--save", "out.json")


def test_an_image_of_too_many_pixels_is_skipped(exported: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = str(data / "val/red/00.png")
    line = ["infer", "-m", str(exported), "-i", image, "--max-pixels"]
    assert main([*line, "2303"]) == 2
    said = capfd.readouterr().err
    assert "48 x 48 are more pixels than max_pixels=2303 allows; shrink it, or raise max_pixels" in said
    assert main([*line, "2304"]) == 0


def test_images_and_batch_of_the_config_are_used(trained: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = overrides(f"Infer.infer_imgs={data}/val/red/00.png", "Infer.batch_size=2")
    assert main(["infer", "-c", str(trained), *given, "--format", "json", "--threads", "1"]) == 0
    (result,) = json.loads(capfd.readouterr().out)
    assert result["image"] == f"{data}/val/red/00.png"
