"""Which images belong to a split, with which labels: ImageNet-style list files or class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import ENDINGS
from ppcls_ext.data.lists import (
    check_class_name,
    class_file_beside,
    held_out,
    joining,
    read_class_names,
    read_lines,
)

SHOWN_CLASSES = 20  # a message names no more classes
UNLABELLED = -1  # the label of an image that has none


@dataclass(frozen=True)
class ImageList:
    """Images of one split.

    Attributes:
        paths: of each image.
        labels: int64 [len(paths)], each in [0, classes), or `UNLABELLED`.
        class_names: one for each class; of lists without a class file, the numbers as text.
        source: the list file or folder, for messages.
    """

    paths: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.paths)


WHOLE = re.compile(r"\s*[-+]?[0-9]+")  # int() also takes 1_0 and digits of other scripts


def read_list(
    list_path: Path,
    image_root: Path,
    delimiter: str | None = None,
    class_names: Sequence[str] | None = None,
    count: int | None = None,
    unlabelled: bool = False,
) -> ImageList:
    """Read lines `path label`; paths are relative to `image_root` and may hold spaces.

    Args:
        delimiter: between path and label; None is white space.
        class_names: known names; else those of a class file beside the list, else the numbers.
        count: number of classes; else that of the names, else one more than the largest label.
        unlabelled: a line that does not end in a number is a path alone.
    Raises:
        UserError: no such file, a line that is not `path label` (with its number), a label that is not a class
            (with its number), or no line at all.
    """
    if class_names is None and (class_file := class_file_beside(list_path)) is not None:
        class_names = read_class_names(class_file)
    if count is None and class_names is not None:
        count = len(class_names)
    most = MOST_CLASSES if count is None else count
    join = joining(image_root)
    values: dict[str, int] = {}  # of the labels that were checked, by their text
    paths, labels = [], []
    for number, line in enumerate(read_lines(list_path, "image list"), start=1):
        text = line.strip()
        if not text:
            continue
        name, label = text, ""
        parts = text.rsplit(delimiter, 1)
        if len(parts) == 2:
            name, label = parts
        if label in values:
            value = values[label]
        elif unlabelled and not (len(parts) == 2 and WHOLE.fullmatch(label)):
            name, value = text, UNLABELLED
        else:
            value = values[label] = _checked_label(parts, most, delimiter, f"image list {list_path}, line {number}")
        paths.append(join(name.strip()))
        labels.append(value)
    if not paths:
        raise UserError(f"image list {list_path}: no lines, the split is empty")
    count = count or max(labels) + 1
    if count == 0:
        raise UserError(
            f"image list {list_path}: no line has a label, so the classes are unknown; give their number or their "
            "names: -o Arch.class_num=N, or DataLoader.Train.dataset.class_names"
        )
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(count)))
    return ImageList(paths, np.array(labels, np.int64), names, str(list_path))


def _checked_label(parts: Sequence[str], most: int, delimiter: str | None, where: str) -> int:
    """The label of a line that was parted into path and label. Raises UserError, which begins with `where`."""
    if len(parts) != 2:
        raise UserError(f"{where}: expected 'path{delimiter or ' '}label', got '{parts[0]}'")
    label = parts[1]
    try:
        value = int(label) if WHOLE.fullmatch(label) else None
    except ValueError:  # thousands of digits
        value = None
    if value is None:
        raise UserError(f"{where}: label '{label}' is not a whole number")
    if not 0 <= value < most:
        raise UserError(f"{where}: label {value} is out of range, labels go from 0 to {most - 1}")
    return value


def scan_folder(root: Path, class_names: Sequence[str] | None = None) -> ImageList:
    """Find images in class folders `root/<class>/**`; classes are numbered in order of their names.

    Args:
        class_names: known classes (of the training split); a folder of another name is an error.
    Raises:
        UserError: no such folder, no class folders, or no images.
    """
    if not root.is_dir():
        raise UserError(f"image folder {root}: no such folder")
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise UserError(f"image folder {root}: expected a folder for each class inside it")
    names = tuple(class_names) if class_names is not None else tuple(f.name for f in folders)
    if len(names) > MOST_CLASSES:
        raise UserError(f"image folder {root}: {len(names)} folders are more than {MOST_CLASSES} classes")
    number_of = {name: number for number, name in reversed(list(enumerate(names)))}  # the first of its name
    paths, labels = [], []
    for folder in folders:
        check_class_name(folder.name, f"image folder {folder}: its name")
        if folder.name not in number_of:
            known = ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "")
            raise UserError(f"image folder {folder}: '{folder.name}' is not a class of the training split ({known})")
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and not os.path.isdir(f))
        if class_names is None and not files:
            raise UserError(f"image folder {folder}: no images ({', '.join(ENDINGS)}); remove the folder or fill it")
        paths += [str(f) for f in files]
        labels += [number_of[folder.name]] * len(files)
    if not paths:
        raise UserError(f"image folder {root}: no images ({', '.join(ENDINGS)}), the split is empty")
    return ImageList(paths, np.array(labels, np.int64), names, str(root))


def find_split(
    root: Path,
    split: str,
    val_fraction: float,
    class_names: Sequence[str] | None = None,
    count: int | None = None,
    unlabelled: bool = False,
) -> ImageList:
    """The images of `split` ('train' or 'val') in someone's own folder.

    Looked for, in this order: `<split>_list.txt` or `<split>.txt` with class names beside it; class folders below
    `<split>/`; class folders right in `root`, of which `val_fraction` are held out for 'val'.
    Raises:
        UserError: none of these is there, or what `read_list` and `scan_folder` raise.
    """
    for list_path in (root / f"{split}_list.txt", root / f"{split}.txt"):
        if list_path.is_file():
            return read_list(list_path, root, None, class_names, count, unlabelled)
    if (root / split).is_dir():
        return scan_folder(root / split, class_names)
    kinds = ("{}", "{}_list.txt", "{}.txt")
    if any((root / kind.format(other)).exists() for other in ("train", "val") for kind in kinds):
        raise UserError(f"Global.data_root {root}: neither {split}_list.txt nor a folder {split}/ is in it")
    images = scan_folder(root, class_names)
    mine = held_out(images.paths, root, val_fraction, split)
    return ImageList([images.paths[k] for k in mine], images.labels[mine], images.class_names, images.source)
