"""Reading COCO-format annotations: every fault is found and named, nothing usable is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ppcls_ext.errors import UserError, nearest
from ppcls_ext.images import BrokenImage, read_rgb

OUTSIDE = 1.0  # pixels that a box may reach past the border before it is pointed out


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


@dataclass
class Findings:
    """What is wrong with an annotation file.

    Attributes:
        fatal: nothing can be trained with it.
        left_out: annotations that are wrong and are not used.
        warnings: odd, but used.
    """

    fatal: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CocoSplit:
    """One split.

    Attributes:
        source: the json, for messages.
        names: of the classes, in order of their numbers.
        category_ids: of the classes in this json (a class that it does not have: None).
    """

    source: str
    records: Sequence[Record]
    names: tuple[str, ...]
    category_ids: tuple[int | None, ...]

    @property
    def paths(self) -> list[str]:
        return [record.path for record in self.records]

    def box_counts(self) -> np.ndarray:
        """Boxes of each class, int64 [classes]."""
        classes = [record.classes for record in self.records]
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *classes]), minlength=len(self.names))


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a COCO json.

    Raises:
        UserError: missing, not JSON, or without the three lists that COCO asks for.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"annotations {path}: {error.strerror or error}; give DataLoader.*.dataset.anno_path"
        ) from error
    except ValueError as error:
        raise UserError(f"annotations {path}: not JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise UserError(f"annotations {path}: not in COCO format, it has no list '{key}'")
    return content


def category_names(content: Mapping[str, Sequence[Mapping[str, Any]]], source: Path) -> dict[int, str]:
    """Category id -> name, in order of the ids.

    Raises:
        UserError: no categories, one without an id or name, or an id or name that two of them have.
    """
    names: dict[int, str] = {}
    for category in content["categories"]:
        number, name = category.get("id"), category.get("name")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
            raise UserError(f"annotations {source}: category {dict(category)} needs a whole number 'id' and a 'name'")
        if number in names or name in names.values():
            what = f"id {number}" if number in names else f"name '{name}'"
            raise UserError(f"annotations {source}: two categories have the {what}")
        names[number] = name
    if not names:
        raise UserError(f"annotations {source}: no categories, so there is nothing to detect")
    return dict(sorted(names.items()))


def find_image_dir(root: Path, split: str, content: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """The folder that the json's file names are relative to: the first that holds the first image.

    Raises:
        UserError: none does.
    """
    first = next((str(i["file_name"]) for i in content["images"] if "file_name" in i), None)
    places = [root / "images" / split, root / split, root / "images", root]
    for place in places:
        if first is not None and (place / first).is_file():
            return place
    tried = ", ".join(str(place) for place in places)
    raise UserError(f"images: '{first}' is in none of {tried}; give DataLoader.*.dataset.image_dir")


def read_coco(path: Path, root: Path, split: str, image_dir: Path | None, names: Sequence[str] | None) -> CocoSplit:
    """Read a split to train or evaluate on; wrong boxes are left out (`check_coco` lists them).

    Args:
        root, split: where images are looked for, if `image_dir` is None.
        names: the classes in order, where something fixes them; else the json's categories in order of their ids.
    Raises:
        UserError: see `read_json`, `category_names`, `find_image_dir`; ids or categories that do not fit together.
    """
    split_read, findings = check_coco(path, root, split, image_dir, names)
    if findings.fatal:
        more = f" (and {len(findings.fatal) - 1} more: check-data lists them)" if len(findings.fatal) > 1 else ""
        raise UserError(findings.fatal[0] + more)
    return split_read


def check_coco(
    path: Path, root: Path, split: str, image_dir: Path | None, names: Sequence[str] | None
) -> tuple[CocoSplit, Findings]:
    """Read a split, with everything that is wrong with it; see `read_coco`."""
    content = read_json(path)
    categories = category_names(content, path)
    names = tuple(names) if names is not None else tuple(categories.values())
    folder = image_dir or find_image_dir(root, split, content)
    findings = Findings()
    class_of: dict[int, int] = {}
    for number, name in categories.items():
        if name in names:
            class_of[number] = names.index(name)
        else:
            findings.fatal.append(f"annotations {path}: category '{name}' is not a class here; {nearest(name, names)}")
    images = _read_images(content["images"], str(path), findings)
    objects = _read_objects(content["annotations"], images, categories, str(path), findings)
    records = []
    for image_id, info in images.items():
        file = folder / info["file_name"]
        size = _size(info, file, str(path), findings)
        if size is None:
            continue
        record = _record(image_id, file, size, objects[image_id], class_of, str(path), findings)
        records.append(record)
    if not records:
        findings.fatal.append(f"annotations {path}: no images, the split is empty")
    ids = {number: place for place, number in class_of.items()}
    category_ids = tuple(ids.get(place) for place in range(len(names)))
    return CocoSplit(str(path), records, names, category_ids), findings


def _read_images(items: Sequence[Mapping[str, Any]], source: str, findings: Findings) -> dict[Any, Mapping[str, Any]]:
    images: dict[Any, Mapping[str, Any]] = {}
    files: dict[str, Any] = {}
    for item in items:
        image_id, file = item.get("id"), item.get("file_name")
        if not isinstance(image_id, (int, str)) or not isinstance(file, str):
            findings.fatal.append(f"annotations {source}: image {dict(item)} needs an 'id' and a 'file_name'")
        elif image_id in images:
            other = images[image_id]["file_name"]
            findings.fatal.append(f"annotations {source}: image id {image_id} is given twice ({other}, {file})")
        else:
            if file in files:
                findings.warnings.append(f"annotations {source}: {file} is image {files[file]} and image {image_id}")
            files[file] = image_id
            images[image_id] = item
    return images


def _read_objects(
    items: Sequence[Mapping[str, Any]],
    images: Mapping[Any, Any],
    categories: Mapping[int, str],
    source: str,
    findings: Findings,
) -> dict[Any, list[Mapping[str, Any]]]:
    """The annotations of each image that make sense by themselves."""
    objects: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in images}
    known: set[Any] = set()
    for place, item in enumerate(items):
        where = f"annotations {source}: annotation {item.get('id', f'number {place + 1}')}"
        box = item.get("bbox")
        if item.get("id") in known and "id" in item:
            findings.left_out.append(f"{where}: its id is given twice; the second is not used")
        elif item.get("image_id") not in images:
            findings.fatal.append(f"{where}: no image has its image_id {item.get('image_id')!r}")
        elif item.get("category_id") not in categories:
            findings.fatal.append(f"{where}: no category has its category_id {item.get('category_id')!r}")
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(n) for n in box):
            findings.fatal.append(f"{where}: bbox must be four numbers x, y, width, height, got {box!r}")
        else:
            objects[item["image_id"]].append(item)
        known.add(item.get("id"))
    return objects


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _size(info: Mapping[str, Any], file: Path, source: str, findings: Findings) -> tuple[int, int] | None:
    """(width, height) of the json, else of the image's header, turned upright."""
    width, height = info.get("width"), info.get("height")
    if width is None and height is None:
        try:
            with Image.open(file) as image:
                return ImageOps.exif_transpose(image).size
        except OSError as error:
            findings.fatal.append(f"image {file}: {error}; the json gives no width and height either")
            return None
    if not isinstance(width, int) or not isinstance(height, int) or width < 1 or height < 1:
        findings.fatal.append(f"annotations {source}: image {info['id']} has size {width} x {height}")
        return None
    return width, height


def _record(
    image_id: Any,
    file: Path,
    size: tuple[int, int],
    objects: Sequence[Mapping[str, Any]],
    class_of: Mapping[int, int],
    source: str,
    findings: Findings,
) -> Record:
    width, height = size
    boxes: list[list[float]] = []
    classes: list[int] = []
    truth: list[tuple[int, tuple[float, float, float, float], float, bool]] = []
    for item in objects:
        if item["category_id"] not in class_of:
            continue  # named once, with its category
        x, y, w, h = map(float, item["bbox"])
        where = f"annotations {source}: annotation {item.get('id', '(no id)')} of {file.name}: box {item['bbox']}"
        if w <= 0 or h <= 0:
            findings.left_out.append(f"{where} has no area")
            continue
        inside = [max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            findings.left_out.append(f"{where} lies outside the image of {width}x{height}")
            continue
        if max(-x, -y, x + w - width, y + h - height) > OUTSIDE:
            findings.warnings.append(f"{where} reaches past the image of {width}x{height} and is cut off there")
        crowd = bool(item.get("iscrowd", 0))
        area = item["area"] if _is_number(item.get("area")) else w * h
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
