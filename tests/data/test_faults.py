"""`pplcnet check-data`: every fault of a data set at once, each with its file or line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.faults import SHOWN, DataReport
from ppcls_ext.tasks.check_data import check_data
from tests.helpers.configs import config_of, write_config


def report_of(images: Path, tmp_path: Path, *overrides: str) -> DataReport:
    path = write_config(tmp_path / "c.yaml", config_of(images, tmp_path / "out"))
    return Classification(load_config(path, overrides)).check_data()


def test_a_good_set_has_no_errors_and_its_counts_in_a_table(images: Path, tmp_path: Path) -> None:
    report = report_of(images, tmp_path)
    assert report.errors == []
    ((_, columns, rows),) = report.tables
    assert columns == ("class", "Train", "Eval")
    assert rows == [("blue", 4, 3), ("green", 4, 3), ("red", 4, 3)]
    assert len(report.samples) == 12 + 9
    assert report.warnings == ["classes with fewer than 10 training examples: blue (4), green (4), red (4)"]


def test_every_fault_is_found_at_once(images: Path, tmp_path: Path) -> None:
    train, val = images / "train", images / "val"
    (train / "blue" / "00.png").write_bytes(b"")
    (val / "red" / "01.png").write_text("no image")
    shutil.copy(train / "green" / "02.png", val / "green" / "leak.png")
    shutil.copy(train / "red" / "02.png", train / "red" / "twin.png")
    report = report_of(images, tmp_path)
    text = "\n".join(report.errors)
    assert len(report.errors) == 3
    assert f"Train: image {train}/blue/00.png: the file is empty" in text
    assert f"Eval: image {val}/red/01.png: " in text
    assert f"{val}/green/leak.png is the same picture as {train}/green/02.png of Train (leakage)" in text
    assert f"Train: {train}/red/twin.png is the same picture as {train}/red/02.png" in report.warnings


def test_a_bad_line_of_one_split_does_not_hide_the_other(images: Path, tmp_path: Path) -> None:
    (images / "classes.txt").write_text("blue\ngreen\nred\n")
    (images / "train_list.txt").write_text("train/red/00.png 2\ntrain/red/00.png 2\ntrain/red/01.png 7\n")
    (images / "val_list.txt").write_text("val/red/00.png 2\nval/none.png 2\n")
    report = report_of(images, tmp_path, "Arch.class_num=3")
    assert len(report.errors) == 2
    assert f"image list {images}/train_list.txt, line 3: label 7 is out of range" in report.errors[0]
    assert f"Eval: image {images}/val/none.png: No such file" in report.errors[1]


def test_listing_twice_imbalance_and_empty_classes_are_pointed_out(images: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for number in range(90):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(images / "train" / f"{number}.png")
    (images / "classes.txt").write_text("blue\ngreen\nred\n")
    listed = [f"train/{n}.png 0\n" for n in range(90)] + ["train/red/00.png 2\n"] * 2
    (images / "train_list.txt").write_text("".join(listed))
    (images / "val_list.txt").write_text("val/red/00.png 2\n")
    report = report_of(images, tmp_path)
    assert report.errors == []
    assert report.tables[0][2] == [("blue", 90, 0), ("green", 0, 0), ("red", 2, 1)]
    assert f"Train: {images}/train/red/00.png is listed more than once" in report.warnings
    assert "classes with no training examples: green" in report.warnings
    assert "classes with fewer than 10 training examples: red (2)" in report.warnings
    assert "the largest class has 45 times the examples of the smallest" in report.warnings


def test_findings_are_counted_and_the_first_are_shown(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(SHOWN + 5):
        (images / "train" / "red" / f"x{number:02d}.png").write_bytes(b"")
    config = load_config(write_config(tmp_path / "c.yaml", config_of(images, tmp_path / "out")))
    picture = tmp_path / "deep" / "samples.png"
    assert check_data(config, picture) == SHOWN + 5
    out, err = capsys.readouterr()
    assert err.count("the file is empty") == SHOWN
    assert "error: ... and 5 more" in err
    assert f"{SHOWN + 5} errors" in err.splitlines()[-1]
    assert "images of each class" in out
    assert Image.open(picture).size[0] == 900


def test_nothing_to_draw_is_said(images: Path, tmp_path: Path) -> None:
    for file in images.rglob("*.png"):
        file.write_bytes(b"")
    config = load_config(write_config(tmp_path / "c.yaml", config_of(images, tmp_path / "out")))
    with pytest.raises(UserError, match="no image could be read"):
        check_data(config, tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()
