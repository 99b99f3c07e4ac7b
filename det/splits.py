"""Reading COCO-format annotations: every fault is found and named, nothing usable is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.exif import opened, upright_size
from ppcls_ext.core.images import BrokenImage, read_rgb
from ppcls_ext.core.reading import Unreadable, decoded, read_regular
from ppcls_ext.core.text import fault_of_name, one_line, shown
from ppcls_ext.core.yaml_files import fault_of_number
from ppcls_ext.data.lists import check_class_name

OUTSIDE = 1.0  # pixels; a box that reaches further past the border is pointed out
SHOWN_FINDINGS = 3  # a message shows no more findings of one kind
LONGEST_FINDING = 300  # characters
LARGEST_FILE = 2**30  # bytes; the annotations of COCO's training set have 0.45 GB
FARTHEST = 1e6  # pixels: coordinates and sides of boxes are below, far from where float32 becomes coarse


@dataclass(frozen=True)
class Record:
    """An image with its objects.

    Attributes:
        image_id: as in the json.
        path: of the image file.
        size: (width, height) that the boxes refer to.
        boxes: float32 [n, 4], x1 y1 x2 y2 in pixels, inside the image, without crowds.
        classes: int64 [n], class numbers.
        truth: of every annotation that counts in evaluation, crowds too: class number, box x y w h, area, crowd.
    """

    image_id: Any
    path: str
    size: tuple[int, int]
    boxes: np.ndarray
    classes: np.ndarray
    truth: Sequence[tuple[int, tuple[float, float, float, float], float, bool]]


class Kind(NamedTuple):
    """A kind of fault: how severe it is, and the text that says what is wrong."""

    text: str
    severity: Literal["fatal", "left out", "warning"]


IMAGE = Kind("an image needs an 'id' and a 'file_name'", "fatal")
IMAGE_NAME = Kind("an image's 'id' and 'file_name' must be a line of text each", "fatal")
IMAGE_ID = Kind("an image id is given twice", "fatal")
FILE_TWICE = Kind("a file is two images", "warning")
SIZE = Kind("an image's width and height must be whole numbers of 1 or more", "fatal")
NO_SIZE = Kind("an image has no width and height, and its file gives none", "fatal")
OTHER_SIZE = Kind("the file is of another size than its annotations say; correct the json", "fatal")
NO_IMAGES = Kind("no images, the split is empty", "fatal")
NO_CLASS = Kind("a category is not a class here", "fatal")
NO_IMAGE = Kind("no image has the image_id of an annotation", "fatal")
NO_CATEGORY = Kind("no category has the category_id of an annotation", "fatal")
BOX = Kind("bbox must be four numbers x, y, width, height, below a million", "fatal")
CROWD = Kind("iscrowd must be 0 or 1", "fatal")
AREA = Kind("an area is no number from 0 up, and that of its box is used", "warning")
SECOND_ID = Kind("an annotation's id is given twice, the second is not used", "left out")
NO_AREA = Kind("a box has no area and is not used", "left out")
OUTSIDE_IMAGE = Kind("a box lies outside its image and is not used", "left out")
CUT_OFF = Kind("a box reaches past its image and is cut off there", "warning")


class Findings:
    """What is wrong with an annotation file: where each kind of fault is.

    Fatal is what nothing can be trained with; what is left out is wrong and not used; a warning is odd, but used.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.found: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, where: str) -> None:
        """Note a fault of a kind, and where it is."""
        self.found.setdefault(kind, []).append(one_line(where, LONGEST_FINDING))

    def count(self, severity: str) -> int:
        """The number of faults of a severity."""
        return sum(len(found) for kind, found in self.found.items() if kind.severity == severity)

    def lines(self, severity: str) -> list[str]:
        """A line for each kind, with the first few findings and how many there are."""
        return [
            f"annotations {self.source}: {kind.text}: {'; '.join(found[:SHOWN_FINDINGS])}"
            + (f"; ... ({len(found)} in all)" if len(found) > SHOWN_FINDINGS else "")
            for kind, found in self.found.items()
            if kind.severity == severity
        ]


@dataclass(frozen=True)
class CocoSplit:
    """One split.

    Attributes:
        source: the json, for messages.
        class_names: in order of the class numbers.
        category_ids: of the classes in this json (a class that it does not have: None).
        left_out: annotations that are wrong and not among the records.
    """

    source: str
    records: Sequence[Record]
    class_names: tuple[str, ...]
    category_ids: tuple[int | None, ...]
    left_out: int

    @property
    def paths(self) -> list[str]:
        """The image file of each record."""
        return [record.path for record in self.records]

    def box_counts(self) -> np.ndarray:
        """Boxes of each class, int64 [classes]."""
        classes = [record.classes for record in self.records]
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *classes]), minlength=len(self.class_names))


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a COCO json.

    Raises:
        UserError: missing, not JSON, or without the three lists that COCO asks for.
    """
    try:
        data = read_regular(path, LARGEST_FILE)
    except Unreadable as error:
        raise UserError(f"annotations {path}: {error}; give DataLoader.*.dataset.anno_path") from error
    try:
        content = json.loads(decoded(data), parse_constant=_no_number)
    except RecursionError as error:
        raise UserError(f"annotations {path}: not JSON of COCO (nested too deeply)") from error
    except (ValueError, Unreadable) as error:
        raise UserError(f"annotations {path}: not JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise UserError(f"annotations {path}: not in COCO format, it has no list '{key}'")
    return content


def _no_number(text: str) -> float:
    """Refuse NaN and Infinity, which Python reads although JSON has no such numbers."""
    raise ValueError(f"{text} is no number of JSON")


def category_names(content: Mapping[str, Sequence[Mapping[str, Any]]], source: Path) -> dict[int, str]:
    """Category id -> name, in order of the ids.

    Raises:
        UserError: no categories, one without an id or name, or an id or name that two of them have.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    if len(content["categories"]) > MOST_CLASSES:
        raise UserError(f"annotations {source}: {len(content['categories'])} categories are more than {MOST_CLASSES}")
    for category in content["categories"]:
        number, name = category.get("id"), category.get("name")
        if type(number) is not int or fault_of_number(number) is not None or not isinstance(name, str):
            raise UserError(
                f"annotations {source}: category {shown(dict(category))} needs a whole number of up to 64 bits as 'id' "
                "and a 'name'"
            )
        check_class_name(name, f"annotations {source}: the name of category {number}, '{one_line(name, 60)}',")
        if number in names or name in taken:
            what = f"id {number}" if number in names else f"name '{name}'"
            raise UserError(f"annotations {source}: two categories have the {what}")
        names[number] = name
        taken.add(name)
    if not names:
        raise UserError(f"annotations {source}: no categories, so there is nothing to detect")
    return dict(sorted(names.items()))


def find_image_dir(root: Path, split: str, content: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """The folder that the json's file names are relative to: the first that holds any of the images.

    Raises:
        UserError: none does.
    """
    files = [i["file_name"] for i in content["images"] if isinstance(i.get("file_name"), str)]
    folders = [root / "images" / split, root / split, root / "images", root]
    for folder in folders:
        if any((folder / file).is_file() for file in files):
            return folder
    tried = ", ".join(str(folder) for folder in folders)
    what = f"'{files[0]}' and the others are" if files else "no image has a file_name, so none is"
    raise UserError(f"images: {what} in none of {tried}; give DataLoader.*.dataset.image_dir")


def read_coco(path: Path, root: Path, split: str, image_dir: Path | None, names: Sequence[str] | None) -> CocoSplit:
    """Read a split to train or evaluate on; wrong boxes are left out (`check_coco` lists them).

    Args:
        root, split: where images are looked for, if `image_dir` is None.
        names: the classes in order, where something fixes them; else the json's categories in order of their ids.
    Raises:
        UserError: see `read_json`, `category_names`, `find_image_dir`; ids or categories that do not fit together.
    """
    split_read, findings = check_coco(path, root, split, image_dir, names)
    fatal = findings.lines("fatal")
    if fatal:
        raise UserError(fatal[0] + (" (check-data shows what else is wrong)" if len(fatal) > 1 else ""))
    return split_read


def check_coco(
    path: Path, root: Path, split: str, image_dir: Path | None, names: Sequence[str] | None
) -> tuple[CocoSplit, Findings]:
    """Read a split, with everything that is wrong with it; see `read_coco`."""
    content = read_json(path)
    categories = category_names(content, path)
    names = tuple(names) if names is not None else tuple(categories.values())
    folder = image_dir or find_image_dir(root, split, content)
    findings = Findings(path)
    class_of: dict[int, int] = {}
    index_of = {name: index for index, name in reversed(list(enumerate(names)))}  # the first of a name counts
    for number, name in categories.items():
        if name in index_of:
            class_of[number] = index_of[name]
        else:
            few = len(findings.found.get(NO_CLASS, ())) < SHOWN_FINDINGS  # looking for the nearest takes long
            findings.add(NO_CLASS, f"'{name}', {nearest(name, names)}" if few else f"'{name}'")
    images = _read_images(content["images"], findings)
    objects = _read_objects(content["annotations"], images, categories, findings)
    records = []
    for image_id, info in images.items():
        file = folder / info["file_name"]
        size = _size(info, file, findings)
        if size is not None:
            records.append(_record(image_id, file, size, objects[image_id], class_of, findings))
    if not content["images"]:
        findings.add(NO_IMAGES, "its list 'images' is empty")
    ids = {number: index for index, number in class_of.items()}
    category_ids = tuple(ids.get(index) for index in range(len(names)))
    return CocoSplit(str(path), records, names, category_ids, findings.count("left out")), findings


def _read_images(items: Sequence[Mapping[str, Any]], findings: Findings) -> dict[Any, Mapping[str, Any]]:
    images: dict[Any, Mapping[str, Any]] = {}
    files: dict[str, Any] = {}
    for item in items:
        image_id, file = item.get("id"), item.get("file_name")
        if not isinstance(image_id, (int, str)) or not isinstance(file, str):
            findings.add(IMAGE, str(dict(item)))
        elif (fault := fault_of_name(f"{image_id}{file}")) is not None:
            findings.add(IMAGE_NAME, f"{image_id!r} and {file!r}: it {fault}")
        elif image_id in images:
            findings.add(IMAGE_ID, f"{image_id} ({images[image_id]['file_name']}, {file})")
        else:
            if file in files:
                findings.add(FILE_TWICE, f"{file} is {files[file]} and {image_id}")
            files[file] = image_id
            images[image_id] = item
    return images


def _read_objects(
    items: Sequence[Mapping[str, Any]], images: Mapping[Any, Any], categories: Mapping[int, str], findings: Findings
) -> dict[Any, list[Mapping[str, Any]]]:
    """The annotations of each image that make sense by themselves."""
    objects: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in images}
    known: set[str] = set()
    for number, item in enumerate(items, start=1):
        own, image, category, box = (item.get(key) for key in ("id", "image_id", "category_id", "bbox"))
        where = f"annotation {own}" if "id" in item else f"annotation number {number}"
        if "id" in item and repr(own) in known:
            findings.add(SECOND_ID, where)
        elif not isinstance(image, (int, str)) or isinstance(image, bool) or image not in images:
            findings.add(NO_IMAGE, f"{where} has {image!r}")
        elif type(category) is not int or category not in categories:
            findings.add(NO_CATEGORY, f"{where} has {category!r}")
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(n) for n in box):
            findings.add(BOX, f"{where} has {box!r}")
        elif item.get("iscrowd", 0) not in (0, 1):
            findings.add(CROWD, f"{where} has {item['iscrowd']!r}")
        else:
            if "area" in item and not _is_area(item["area"]):
                findings.add(AREA, f"{where} has {item['area']!r}")
            objects[image].append(item)
        known.add(repr(own))
    return objects


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -FARTHEST < value < FARTHEST


def _is_area(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < FARTHEST**2


def _size(info: Mapping[str, Any], file: Path, findings: Findings) -> tuple[int, int] | None:
    """(width, height) of the json, else of the image's header, turned upright."""
    width, height = info.get("width"), info.get("height")
    if width is None and height is None:
        try:
            with opened(file) as image:
                return upright_size(image)
        except BrokenImage as error:
            findings.add(NO_SIZE, str(error))
            return None
    if (
        not isinstance(width, int)
        or not isinstance(height, int)
        or not (0 < width <= FARTHEST and 0 < height <= FARTHEST)
    ):
        findings.add(SIZE, f"image {info['id']} has {width} x {height}")
        return None
    return width, height


def _record(
    image_id: Any,
    file: Path,
    size: tuple[int, int],
    objects: Sequence[Mapping[str, Any]],
    class_of: Mapping[int, int],
    findings: Findings,
) -> Record:
    width, height = size
    boxes: list[list[float]] = []
    classes: list[int] = []
    truth: list[tuple[int, tuple[float, float, float, float], float, bool]] = []
    for item in objects:
        if item["category_id"] not in class_of:
            continue  # its category has been named already
        x, y, w, h = map(float, item["bbox"])
        where = f"annotation {item.get('id', '(no id)')}, {item['bbox']} in {file.name} of {width}x{height}"
        if w <= 0 or h <= 0:
            findings.add(NO_AREA, where)
            continue
        inside = [max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            findings.add(OUTSIDE_IMAGE, where)
            continue
        if max(-x, -y, x + w - width, y + h - height) > OUTSIDE:
            findings.add(CUT_OFF, where)
        crowd = bool(item.get("iscrowd", 0))
        area = item["area"] if _is_area(item.get("area")) else w * h
        truth.append((class_of[item["category_id"]], (x, y, w, h), float(area), crowd))
        if not crowd:
            boxes.append(inside)
            classes.append(class_of[item["category_id"]])
    return Record(
        image_id,
        str(file),
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        truth,
    )


def has_its_size(record: Record) -> bool:
    """Whether the image is of the record's size as it is stored or turned upright, from the file's header alone.

    A file that is no image is left to those who decode it.
    """
    try:
        with opened(record.path) as image:
            return record.size in (image.size, upright_size(image))
    except BrokenImage:
        return True


def read_record_image(record: Record) -> np.ndarray:
    """The image of a record as uint8 RGB [H, W, 3], turned as its boxes are.

    Annotation tools differ in whether they turn a photograph by its EXIF orientation; the size tells.
    Raises:
        BrokenImage: it cannot be read. UserError: its size is not that of the annotations either way.
    """
    image = read_rgb(record.path)
    if image.shape[1::-1] == record.size:
        return image
    stored = read_rgb(record.path, upright=False)
    if stored.shape[1::-1] == record.size:
        return stored
    found, asked = f"{image.shape[1]}x{image.shape[0]}", f"{record.size[0]}x{record.size[1]}"
    raise BrokenImage(f"image {record.path}: it is {found}, but its annotations are for {asked}; correct the json")
