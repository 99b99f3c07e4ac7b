"""Photos become results in every subject, and the report says how they compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_ext.bench.end_to_end import _engines_of
from ppcls_ext.bench.end_to_end_worker import PREDICTOR
from ppcls_ext.bench.photo_runs import PhotoRun, PhotoSubject, photo_subjects
from ppcls_ext.bench.photos import draw_photo
from ppcls_ext.bench.scripts import agreement
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import main
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.process import EngineFailed

Fails = Callable[..., str]


@pytest.mark.slow
def test_the_report_compares_with_the_references(exported: Path, tmp_path: Path) -> None:
    """Starts a process for each of four subjects, three times."""
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), draw_photo(400, 300, np.random.default_rng(0)))
    file = tmp_path / "report.json"
    arguments = ["--engine", "onnxruntime", "--rounds", "2", "--processes", "1", "--iterations", "6"]
    command = ["benchmark", "--end-to-end", "-m", exported, "--images", photo, "--json", file, *arguments]
    assert main([str(a) for a in command]) == 0
    (result,) = json.loads(file.read_text())["results"]
    rows = {(row["kind"], row["engine"], row["decode"]): row for row in result["rows"]}
    assert {(e, d) for k, e, d in rows if k == "predictor"} == {("onnxruntime", "exact"), ("onnxruntime", "scaled")}
    script, ours = rows["script", "", ""], rows["predictor", "onnxruntime", "exact"]
    for row in (script, ours, rows["PaddleClas", "", ""]):
        assert row["failure"] is None
        assert row["agreement"] == 1
        assert row["ms"]["median"] > 0
    assert set(ours["times_as_fast_as"]) == {"script", "PaddleClas"}
    assert set(script["times_as_fast_as"]) == {"PaddleClas"}
    assert all(rate > 0 for rate in ours["images_per_s"].values())
    assert set(script["images_per_s"].values()) == {None}


@pytest.mark.slow
def test_subjects_are_what_the_folder_and_the_machine_allow(exported: Path) -> None:
    found = photo_subjects(read_exported(exported), [])
    assert [subject.kind for subject in found[:2]] == ["PaddleClas", "script"]
    assert {subject.decode for subject in found[2:]} == {"exact", "scaled"}
    assert "native" not in {subject.engine for subject in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "clue"),
    [
        (["--end-to-end", "--profile"], "--end-to-end does not take --profile"),
        (["--end-to-end", "--batch", "4"], "--end-to-end does not take --batch"),
        (["--end-to-end", "--streams", "2"], "--end-to-end does not take --streams"),
        (["--end-to-end", "--images", "nowhere/*.jpg"], "images nowhere/*.jpg: no such file or folder"),
        (["--images", "a.jpg"], "--images is for --end-to-end"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(exported: Path, fails: Fails, given: list[str], clue: str) -> None:
    assert clue in fails("benchmark", "-m", exported, *given)


def test_a_stream_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def dies(command: str, **_: object) -> float:
        raise EngineFailed("crashed with SIGSEGV")

    run = PhotoRun(PhotoSubject(PREDICTOR, Path("model"), "onednn", "exact"), [], Settings())
    run.stream(dies, 2, 8)  # type: ignore[arg-type]
    assert (run.images_per_s, run.failure) == ({}, None)
    expected = "Predictor, onednn, exact: streams of batch 8 on 2 threads failed: crashed with SIGSEGV"
    assert expected in " ".join(capsys.readouterr().err.split())


def test_photos_are_as_hard_to_decode_as_those_of_cameras() -> None:
    photo = draw_photo(500, 375, np.random.default_rng(0))
    assert photo.shape == (375, 500, 3)
    _, data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert 1.5 < 8 * len(data) / (500 * 375) < 5  # bits a pixel; a flat picture has 0.1, pure noise 9


def test_agreement_is_of_pixels_for_masks_and_all_or_nothing_else() -> None:
    mask = np.zeros((4, 5), np.uint8)
    other = mask.copy()
    other[0] = 1
    assert agreement(mask, other) == 0.75
    assert agreement(mask, mask[:2]) == 0
    assert agreement(np.array([3]), np.array([3])) == 1
    assert agreement(np.array([3, 1]), np.array([3, 2])) == 0


@pytest.mark.slow
def test_of_auto_the_engines_that_it_chose_from_are_named(exported: Path) -> None:
    export = read_exported(exported)
    named = _engines_of([export], [photo_subjects(export, ["auto"])])
    assert "onednn" in named
    assert "auto" not in named
