"""`ppcls_ext.data.lists`: list files, class folders and held-out shares, with errors that name the line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ppcls_ext.cls.splits import UNLABELLED, find_split, read_list, scan_folder
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.lists import joining, read_class_names, read_lines
from tests.helpers.sets import CLASSES, write_split


def lines(path: Path, *content: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    return path


def test_a_list_gives_paths_labels_and_numbers_as_names(tmp_path: Path) -> None:
    images = read_list(lines(tmp_path / "l.txt", "a b/1.jpg 0", "", "2.jpg\t2  "), Path("/pictures"))
    assert images.paths == ["/pictures/a b/1.jpg", "/pictures/2.jpg"]
    assert images.labels.tolist() == [0, 2]
    assert images.class_names == ("0", "1", "2")
    assert len(images) == 2


def test_names_come_from_the_file_beside_the_list(tmp_path: Path) -> None:
    lines(tmp_path / "classes.txt", "cat", "big dog")
    listed = lines(tmp_path / "l.txt", "1.jpg 0")
    assert read_list(listed, tmp_path).class_names == ("cat", "big dog")
    assert read_list(listed, tmp_path, class_names=["x"]).class_names == ("x",)  # known names win


def test_a_delimiter_may_be_given(tmp_path: Path) -> None:
    images = read_list(lines(tmp_path / "l.txt", "my pic.jpg,1"), tmp_path, delimiter=",")
    assert images.paths == [str(tmp_path / "my pic.jpg")]
    assert images.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["1.jpg 0", "2.jpg"], r"line 2: expected 'path label', got '2.jpg'"),
        (["1.jpg 0", "", "2.jpg cat"], r"line 3: label 'cat' is not a whole number"),
        (["1.jpg -1"], r"line 1: label -1 is out of range, labels go from 0 to 1"),
        (["1.jpg 0", "2.jpg 1", "3.jpg 2"], r"line 3: label 2 is out of range, labels go from 0 to 1"),
        ([], "no lines, the split is empty"),
        (["", "  "], "no lines, the split is empty"),
    ],
)
def test_a_bad_line_is_named_by_its_number(content: list[str], message: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "l.txt", *content)
    with pytest.raises(UserError, match=message) as caught:
        read_list(path, tmp_path, count=2)
    assert str(caught.value).startswith(f"image list {path}")
    assert "\n" not in str(caught.value)


def test_a_list_may_have_images_without_a_label_where_that_is_allowed(tmp_path: Path) -> None:
    path = lines(tmp_path / "l.txt", "a b/1.jpg 1", "c d/2.jpg", "3.jpg", "x/4 5.jpg  0")
    images = read_list(path, Path("/p"), class_names=["cat", "dog"], unlabelled=True)
    assert images.paths == ["/p/a b/1.jpg", "/p/c d/2.jpg", "/p/3.jpg", "/p/x/4 5.jpg"]
    assert images.labels.tolist() == [1, UNLABELLED, UNLABELLED, 0]
    with pytest.raises(UserError, match=r"line 2: label .d/2\.jpg. is not a whole number"):
        read_list(path, Path("/p"), class_names=["cat", "dog"])
    with pytest.raises(UserError, match="line 1: label 7 is out of range"):  # a number is a label, and checked
        read_list(lines(tmp_path / "w.txt", "1.jpg 7"), tmp_path, class_names=["cat", "dog"], unlabelled=True)


def test_without_any_label_the_classes_must_be_given(tmp_path: Path) -> None:
    path = lines(tmp_path / "l.txt", "1.jpg", "2.jpg")
    assert read_list(path, tmp_path, count=3, unlabelled=True).class_names == ("0", "1", "2")
    with pytest.raises(UserError, match="no line has a label, so the classes are unknown"):
        read_list(path, tmp_path, unlabelled=True)


NAMES = ["a.png", "a b/c.png", "", ".", "..", "./a", "../a", "a/./b", "a/../b", "a//b", "a/", "a/.", ".a", "a/.b", "/a"]


@pytest.mark.parametrize("root", ["/data", "/", ".", "", "x/..", "//host/y", "a b/"])
def test_joining_gives_the_paths_that_pathlib_gives(root: str) -> None:
    join = joining(Path(root))
    assert [join(name) for name in NAMES] == [str(Path(root) / name) for name in NAMES]


def test_a_label_is_refused_after_it_was_read_in_another_form(tmp_path: Path) -> None:
    images = read_list(lines(tmp_path / "l.txt", "1.jpg 1", "2.jpg +1", "3.jpg 01", "4.jpg 1"), tmp_path)
    assert images.labels.tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match=r"line 3: label '1_0' is not a whole number"):
        read_list(lines(tmp_path / "w.txt", "1.jpg 1", "2.jpg 10", "3.jpg 1_0"), tmp_path)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.txt: no such file"):
        read_list(tmp_path / "none.txt", tmp_path)


def test_class_names_plain_or_numbered(tmp_path: Path) -> None:
    assert read_class_names(lines(tmp_path / "a", "cat", "big dog")) == ("cat", "big dog")
    assert read_class_names(lines(tmp_path / "b", "1 big dog", "0 cat, tabby")) == ("cat, tabby", "big dog")
    assert read_class_names(lines(tmp_path / "c", "0 cat", "dog")) == ("0 cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [(["0 a", "2 b"], "must run from 0 to 1"), (["0 a", "0 b"], "must run from 0 to 1"), ([], "is empty")],
)
def test_wrong_class_names_are_refused(content: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_class_names(lines(tmp_path / "c", *content))
    with pytest.raises(UserError, match="no such file"):
        read_class_names(tmp_path / "none")


def test_class_folders_are_numbered_by_name(tmp_path: Path) -> None:
    write_split(tmp_path / "s", [1, 2, 3], ending="jpg")
    (tmp_path / "s" / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "s" / ".cache").mkdir()
    (tmp_path / "s" / "red" / "deep").mkdir()
    shutil.copy(tmp_path / "s" / "red" / "00.jpg", tmp_path / "s" / "red" / "deep" / "x.JPG")
    images = scan_folder(tmp_path / "s")
    assert images.class_names == CLASSES
    assert images.labels.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert all(Path(p).is_file() for p in images.paths)


def test_folders_take_the_numbers_of_known_classes(tmp_path: Path) -> None:
    write_split(tmp_path / "s", [0, 2, 1])
    shutil.rmtree(tmp_path / "s" / "blue")
    images = scan_folder(tmp_path / "s", ["red", "blue", "green"])
    assert images.labels.tolist() == [2, 2, 0]
    with pytest.raises(UserError, match=r"'green' is not a class of the training split \(blue, red\)"):
        scan_folder(tmp_path / "s", ["blue", "red"])


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        scan_folder(tmp_path / "none")
    with pytest.raises(UserError, match="a folder for each class"):
        scan_folder(tmp_path)
    write_split(tmp_path / "s", [1, 0, 1])
    with pytest.raises(UserError, match="green: no images"):
        scan_folder(tmp_path / "s")
    write_split(tmp_path / "e", [0, 0, 0])
    with pytest.raises(UserError, match="the split is empty"):
        scan_folder(tmp_path / "e", CLASSES)


def test_holding_out_parts_the_set_and_stays_when_it_grows(tmp_path: Path) -> None:
    write_split(tmp_path / "s", [40, 40, 40])
    train, val = (find_split(tmp_path / "s", split, 0.25) for split in ("train", "val"))
    assert set(train.paths) | set(val.paths) == set(scan_folder(tmp_path / "s").paths)
    assert not set(train.paths) & set(val.paths)
    assert 15 <= len(val) <= 45
    assert {Path(p).parent.name for p in val.paths} == set(CLASSES)
    for images in (train, val):
        assert [CLASSES[label] for label in images.labels] == [Path(p).parent.name for p in images.paths]
    for name in CLASSES:
        shutil.copy(tmp_path / "s" / name / "00.png", tmp_path / "s" / name / "another.png")
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "s", moved)
    grown = find_split(moved, "val", 0.25)
    kept = {Path(p).relative_to(moved) for p in grown.paths} - {Path(n, "another.png") for n in CLASSES}
    assert kept == {Path(p).relative_to(tmp_path / "s") for p in val.paths}


def test_holding_out_all_or_nothing_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "s", [1, 1, 1])
    with pytest.raises(UserError, match=r"val_fraction 1e-06 leaves the val split empty"):
        find_split(tmp_path / "s", "val", 1e-6)
    with pytest.raises(UserError, match=r"leaves the train split empty"):
        find_split(tmp_path / "s", "train", 1 - 1e-6)


def test_find_split_prefers_lists_then_split_folders_then_a_share(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_split(root, [20, 20, 20])
    assert len(find_split(root, "train", 0.2)) + len(find_split(root, "val", 0.2)) == 60
    write_split(root / "train", [2, 2, 2])
    with pytest.raises(UserError, match=r"neither val_list.txt nor a folder val/"):
        find_split(root, "val", 0.2)
    write_split(root / "val", [1, 1, 1])
    assert len(find_split(root, "train", 0.2)) == 6
    assert len(find_split(root, "val", 0.2)) == 3
    lines(root / "val.txt", "val/red/00.png 1", "val/red/00.png 1")
    assert len(find_split(root, "val", 0.2, CLASSES)) == 2
    lines(root / "val_list.txt", "val/red/00.png 2")
    images = find_split(root, "val", 0.2, CLASSES)
    assert images.paths == [str(root / "val/red/00.png")]
    assert images.class_names == CLASSES


def test_names_that_no_line_holds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"cat\ndog\x1b")
    with pytest.raises(UserError, match="has a line break or another control character, which the name of a class"):
        read_class_names(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("0 cat\n\u00b2 dog\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ("0 cat", "\u00b2 dog")


def test_a_nul_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.png 0\nb\0.png 1\n")
    with pytest.raises(UserError, match=r"list.txt, line 2: it has a NUL character"):
        read_lines(tmp_path / "list.txt", "image list")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"list.txt: no such file"):
        read_lines(tmp_path / "list.txt", "image list")
