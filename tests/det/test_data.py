"""COCO data as people have it: sparse ids, crowds, empty images, grey and turned photographs, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from det.metrics import CocoResult
from det.splits import check_coco, read_coco, read_record_image
from det.task import Detection
from det.transforms import (
    BATCH_TRANSFORMS,
    TRANSFORMS,
    BatchRandomResize,
    RandomCrop,
    RandomDistort,
    RandomFlip,
    Sample,
    build_ops,
    resize,
)
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError


def content() -> dict[str, Any]:
    """Three images: colour with two objects, grey without one, and one turned by EXIF with a crowd beside an object."""
    return {
        "images": [
            {"id": 10, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 7, "file_name": "grey.png", "width": 64, "height": 48},
            {"id": 99, "file_name": "turned.jpg", "width": 48, "height": 64},
        ],
        "annotations": [
            {"id": 0, "image_id": 10, "category_id": 90, "bbox": [4, 4, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 5, "image_id": 10, "category_id": 3, "bbox": [50, 10, 10, 10]},
            {"id": 6, "image_id": 99, "category_id": 3, "bbox": [5, 5, 20, 30]},
            {"id": 8, "image_id": 99, "category_id": 3, "bbox": [0, 0, 48, 64], "area": 3072, "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def write(root: Path, data: dict[str, Any], split: str = "train", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder = root / "images" / split
    folder.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 256, (48, 64)).astype(np.uint8)).save(folder / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 64x48, shown 48x64
    Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(folder / "turned.jpg", exif=exif)
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def read(root: Path, data: dict[str, Any]) -> Any:
    return read_coco(write(root, data), root, "train", None, None)


def test_sparse_ids_crowds_and_empty_images(tmp_path: Path) -> None:
    split = read(tmp_path, content())
    assert split.class_names == ("dog", "cat")
    assert split.category_ids == (3, 90)
    assert [len(r.boxes) for r in split.records] == [2, 0, 1]
    assert [t[3] for t in split.records[2].truth] == [False, True]
    np.testing.assert_array_equal(split.records[0].boxes, [[4, 4, 44, 44], [50, 10, 60, 20]])
    assert read_record_image(split.records[1]).shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_a_turned_photograph_is_read_as_it_was_annotated(tmp_path: Path, size: tuple[int, int]) -> None:
    data = content()
    data["images"][2].update(width=size[0], height=size[1])
    image = read_record_image(read(tmp_path, data).records[2])
    assert image.shape == (size[1], size[0], 3)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    data = content()
    data["images"][0].update(width=100)
    record = read(tmp_path, data).records[0]
    with pytest.raises(UserError, match=r"a\.png: it is 64x48, but its annotations are for 100x48"):
        read_record_image(record)


def test_sizes_that_the_json_leaves_out_are_found(tmp_path: Path) -> None:
    data = content()
    for image in data["images"]:
        del image["width"], image["height"]
    assert [r.size for r in read(tmp_path, data).records] == [(64, 48), (64, 48), (48, 64)]


def perfect(split: Any) -> list[np.ndarray]:
    return [
        np.column_stack([r.classes, np.full(len(r.classes), 0.9), r.boxes]).reshape(-1, 6).astype(np.float32)
        for r in split.records
    ]


def test_average_precision_equals_pycocotools_on_the_json(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = content()
    for item in data["annotations"]:
        item["id"] += 1  # pycocotools itself cannot match an object of id 0
        item.setdefault("area", item["bbox"][2] * item["bbox"][3])
        item.setdefault("iscrowd", 0)
    path = write(tmp_path, data)
    split = read_coco(path, tmp_path, "train", None, None)
    rows = perfect(split)
    rows[0][0, 2:] += 4
    in_the_crowd = [0, 0.95, 30, 40, 44, 60]  # not counted
    rows[2] = np.vstack([rows[2], in_the_crowd]).astype(np.float32)
    result = CocoResult(split, rows)
    truth = COCO(str(path))
    reference = COCOeval(truth, truth.loadRes(result.detections), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert 0.5 < result.metrics()["AP"] < 1
    np.testing.assert_allclose([result.metrics()["AP"], result.metrics()["AP50"]], reference.stats[:2], atol=1e-9)


def test_perfect_and_absent_detections(tmp_path: Path) -> None:
    split = read(tmp_path, content())
    whole = CocoResult(split, perfect(split))
    assert whole.metrics()["AP"] == pytest.approx(1)
    assert "APl" not in whole.metrics()  # no object is that large
    nothing = CocoResult(split, [np.zeros((0, 6), np.float32)] * 3)
    assert nothing.metrics()["AP"] == 0
    assert whole.per_class == [("dog", 2, pytest.approx(1), pytest.approx(1), 1), ("cat", 1, *[pytest.approx(1)] * 3)]
    assert [row[1:] for row in nothing.per_class] == [(2, 0, 0, 0), (1, 0, 0, 0)]


FATAL: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown category": (lambda d: d["annotations"][0].update(category_id=4), "category_id .*: annotation 0 has 4"),
    "category list": (lambda d: d["annotations"][0].update(category_id=[3]), r"category_id .*: annotation 0 has \[3\]"),
    "unknown image": (lambda d: d["annotations"][0].update(image_id=4), "image_id .*: annotation 0 has 4"),
    "image list": (lambda d: d["annotations"][0].update(image_id=[10]), r"image_id .*: annotation 0 has \[10\]"),
    "image id twice": (lambda d: d["images"][1].update(id=10), r"image id is given twice: 10 \(a.png, grey.png\)"),
    "image without a name": (lambda d: d["images"][1].pop("file_name"), "needs an 'id' and a 'file_name'"),
    "bad size": (lambda d: d["images"][1].update(width=0), "image 7 has 0 x 48"),
    "bad box": (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "bbox must be four numbers"),
    "category name twice": (lambda d: d["categories"][0].update(name="dog"), "two categories have the name 'dog'"),
    "no categories": (lambda d: d.update(categories=[]), "no categories"),
    "not coco": (lambda d: d.pop("images"), "has no list 'images'"),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, name: str) -> None:
    data = content()
    change, text = FATAL[name]
    change(data)
    with pytest.raises(UserError, match=text) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)


def with_wrong_boxes() -> dict[str, Any]:
    data = content()
    boxes = {20: [1, 1, 0, 5], 21: [70, 1, 5, 5], 22: [60, 40, 30, 30], 5: [1, 1, 9, 9]}
    data["annotations"] += [{"id": k, "image_id": 10, "category_id": 3, "bbox": b} for k, b in boxes.items()]
    return data


def test_wrong_boxes_are_left_out_and_named(tmp_path: Path) -> None:
    split, findings = check_coco(write(tmp_path, with_wrong_boxes()), tmp_path, "train", None, None)
    assert [line.split(".json: ")[1] for line in findings.lines("left out")] == [
        "an annotation's id is given twice, the second is not used: annotation 5",
        "a box has no area and is not used: annotation 20, [1, 1, 0, 5] in a.png of 64x48",
        "a box lies outside its image and is not used: annotation 21, [70, 1, 5, 5] in a.png of 64x48",
    ]
    (cut,) = findings.lines("warning")
    assert "reaches past its image" in cut
    assert "annotation 22" in cut
    np.testing.assert_array_equal(split.records[0].boxes[-1], [60, 40, 64, 48])
    assert split.left_out == findings.count("left out") == 3
    assert not findings.lines("fatal")


def test_findings_of_a_kind_are_one_line(tmp_path: Path) -> None:
    data = content()
    data["annotations"] += [{"image_id": 10, "category_id": 3, "bbox": [50, 1, 20, 5]} for _ in range(40)]
    _, findings = check_coco(write(tmp_path, data), tmp_path, "train", None, None)
    (line,) = findings.lines("warning")
    assert line.count("in a.png") == 3
    assert line.endswith("(40 in all)")


def test_training_says_that_boxes_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, with_wrong_boxes())
    task = Detection(load_config("det/my_coco", [f"Global.data_root={tmp_path}"]))
    assert len(task.data.train_split.records) == 3
    assert "boxes that are wrong and not used: 3; check-data" in task.notes()[0]


def test_check_data_reports_every_fault(tmp_path: Path) -> None:
    train = content()
    train["annotations"].append({"id": 30, "image_id": 10, "category_id": 3, "bbox": [1, 1, 0, 0]})
    train["images"][2].update(width=47)
    write(tmp_path, train, "train")
    write(tmp_path, content(), "val")  # the same pictures
    (tmp_path / "images" / "val" / "grey.png").unlink()
    (tmp_path / "images" / "train" / "grey.png").write_bytes(b"not an image")
    report = Detection(load_config("det/my_coco", [f"Global.data_root={tmp_path}"])).check_data()
    text = "\n".join(report.errors)
    for expected in ("has no area", "leakage", "val/grey.png", "train/grey.png", "train/turned.jpg is not 47x64"):
        assert expected in text
    assert "classes with fewer than 10 training boxes: dog (2), cat (1)" in report.warnings
    assert {row[0]: row[1:] for row in report.tables[0][2]} == {"dog": (2, 2), "cat": (1, 1)}
    assert {sample.shape for sample in report.samples} == {(236, 314, 3), (314, 236, 3)}  # they fit into squares of 320


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("RandomCrop: {scaling: 3}", "RandomCrop: scaling: expected two numbers, got 3"),
        ("RandomCrop: {scaling: [0.3, 2.0]}", "scaling: expected a number from 0.3 to 1, got 2.0"),
        ("RandomCrop: {aspect_ratio: [0.1, 0.5]}", "aspect_ratio: expected a range around 1"),
        ("RandomCrop: {thresholds: 0.5}", "thresholds: expected a list"),
        ("RandomCrop: {num_attempts: 0}", "num_attempts: expected a number from 1"),
        ("RandomFlip: {prob: often}", "prob: expected a number from 0 to 1, got 'often'"),
        ("RandomDistort: {hue: [1, 2]}", "hue: expected a number"),
        ("RandomDistort: {contrast: [1.5, 0.5]}", "contrast: expected a number from 1.5 to 10, got 0.5"),
        ("RandomDistrot: {}", "no such operation; did you mean 'RandomDistort'"),
    ],
)
def test_wrong_values_of_a_transform_are_refused(operation: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build_ops([yaml.safe_load(operation)], TRANSFORMS, "ops")


@pytest.mark.parametrize(
    "size", ["many", 320, [], [100], [0], ["320"], [[320]], [[320, 100]], [32 * 10**28], [[320, 16416]], [1e30]]
)
def test_wrong_sizes_of_a_batch_are_refused(size: Any) -> None:
    with pytest.raises(UserError, match="target_size: "):
        build_ops([{"BatchRandomResize": {"target_size": size}}], BATCH_TRANSFORMS, "ops", image_shape=(3, 320, 320))


def test_sizes_of_a_batch_are_around_the_input() -> None:
    assert BatchRandomResize((3, 320, 320)).sizes == [(s, s) for s in (256, 288, 320, 352, 384)]
    assert BatchRandomResize((3, 64, 64)).sizes == [(s, s) for s in (32, 64, 96, 128)]
    assert BatchRandomResize((3, 320, 640), [[64, 96], 32]).sizes == [(64, 96), (32, 32)]


def test_transforms_keep_boxes_on_their_pixels() -> None:
    """Objects are the only white pixels: after any transform, boxes hold just them."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = np.zeros((60, 90, 3), np.uint8)
        image[20:40, 30:50] = 255
        sample = Sample(image, np.array([[30, 20, 50, 40]], np.float32), np.array([0]))
        sample = RandomFlip()(RandomCrop()(sample, rng), rng)
        (x1, y1, x2, y2) = sample.boxes[0].astype(int)
        assert sample.image[y1:y2, x1:x2].min() == 255
        assert (sample.image == 255).sum() == 3 * (x2 - x1) * (y2 - y1)
        distorted = RandomDistort(prob=1.0)(sample, rng)
        assert distorted.image.shape == sample.image.shape
        assert distorted.image.dtype == np.uint8
        np.testing.assert_allclose(
            resize(sample, (32, 64)).boxes[0, [0, 2]], np.array([x1, x2]) * 64 / sample.image.shape[1], rtol=1e-6
        )
