"""The script that people write by hand around OpenCV and ONNX Runtime, for each task: what a predictor must beat.

It does what the recipe of an export says, in full, in the plainest way: one image, no tables, no reduced decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations

Script = Callable[[str], np.ndarray]  # takes the path of an image, gives the gist of its result, see `gist`


def make_script(folder: Path, recipe: Mapping[str, Any], threads: int) -> Script:
    """The script for an export. Raises UserError where there is none for its task."""
    import onnxruntime

    task = recipe["task"]
    if task not in _SCRIPTS:
        raise UserError(f"there is no script for task {task}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        str(folder / "onnx" / "inference.onnx"), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return _SCRIPTS[task](recipe, lambda array: session.run(None, {name: array}))


Run = Callable[[np.ndarray], "list[np.ndarray]"]


def _classification(recipe: Mapping[str, Any], run: Run) -> Script:
    steps = read_operations(recipe["preprocess"]["transforms"], "preprocess.transforms")
    given = {step.name: step.arguments for step in steps}
    unknown = set(given) - {"DecodeImage", "ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage"}
    if unknown:
        raise UserError(f"the script does not know {', '.join(sorted(unknown))}")
    resize, labels = given.get("ResizeImage", {}), recipe["labels"]
    crop = given.get("CropImage", {}).get("size")
    normalize = _normalizer(recipe, given.get("NormalizeImage", {}))

    def script(path: str) -> np.ndarray:
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        if resize.get("resize_short"):
            factor = resize["resize_short"] / min(height, width)
            image = cv2.resize(image, (round(width * factor), round(height * factor)))
        elif resize:
            image = cv2.resize(image, tuple(np.broadcast_to(resize["size"], 2).tolist()))
        if crop is not None:
            wide, high = np.broadcast_to(crop, 2)
            top, left = (image.shape[0] - high) // 2, (image.shape[1] - wide) // 2
            image = image[top : top + high, left : left + wide]
        scores = run(normalize(image))[0][0]
        best = np.argsort(scores)[::-1][:5]
        result = [(labels[k], float(scores[k])) for k in best]
        assert len(result) == len(best)
        return best[:1]

    return script


def _detection(recipe: Mapping[str, Any], run: Run) -> Script:
    high, wide = recipe["preprocess"]["resize"]
    normalize = _normalizer(recipe, recipe["preprocess"])
    threshold, labels = recipe["postprocess"]["threshold"], recipe["labels"]
    nms = recipe["postprocess"]

    def script(path: str) -> np.ndarray:
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        found = run(normalize(cv2.resize(image, (wide, high))))
        rows = _suppressed(found[0][0], found[1][0], nms) if found[0].ndim == 3 else found[0].reshape(-1, 6)
        rows = rows[rows[:, 1] >= threshold]
        rows = rows[np.argsort(-rows[:, 1], kind="stable")]
        boxes = rows[:, 2:] * np.array([width / wide, height / high] * 2, np.float32)
        result = [(labels[int(row[0])], float(row[1]), *map(float, box)) for row, box in zip(rows, boxes, strict=True)]
        assert len(result) == len(rows)
        return rows[:, 0].astype(np.int64)

    return script


def _suppressed(scores: np.ndarray, boxes: np.ndarray, nms: Mapping[str, Any]) -> np.ndarray:
    """Rows [K, 6] of class, score and box from scores [classes, M] and boxes [M, 4], by OpenCV's own NMS."""
    classes, places = np.nonzero(scores > nms["score_threshold"])
    values, corners = scores[classes, places], boxes[places]
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    best = cv2.dnn.NMSBoxesBatched(
        sides.tolist(), values.tolist(), classes.tolist(), nms["score_threshold"], nms["nms_threshold"]
    )
    kept = np.array(best, np.int64)[: nms["keep_top_k"]]
    return np.column_stack([classes[kept], values[kept], corners[kept]]).astype(np.float32)


def _segmentation(recipe: Mapping[str, Any], run: Run) -> Script:
    if recipe["preprocess"]["size"] is None:
        raise UserError("the script needs a segmenter with a fixed Export.size")
    high, wide = recipe["preprocess"]["size"]
    normalize = _normalizer(recipe, recipe["preprocess"])

    def script(path: str) -> np.ndarray:
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        shrinks = high * wide < height * width
        image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        output = run(normalize(image))[0][0]
        classes = (output if output.ndim == 2 else output.argmax(0)).astype(np.uint8)
        return thinned(cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST))

    return script


_SCRIPTS: dict[str, Callable[[Mapping[str, Any], Run], Script]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}


def _normalizer(recipe: Mapping[str, Any], statistics: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    if recipe["preprocess"].get("input") == "uint8":
        return lambda image: np.ascontiguousarray(image[None])
    mean, std = (np.array(statistics[key], np.float32) for key in ("mean", "std"))

    def normalize(image: np.ndarray) -> np.ndarray:
        array = (image.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(array.transpose(2, 0, 1)[None], np.float32)

    return normalize


def gist(result: Any) -> np.ndarray:
    """What is compared of a result: the classes of its boxes, some of its mask, or the best class; integers."""
    if hasattr(result, "mask"):
        return thinned(result.mask)
    return np.array(result.classes if hasattr(result, "boxes") else result.classes[:1], np.int64)


def thinned(mask: np.ndarray) -> np.ndarray:
    """Every eighth pixel each way."""
    return mask[::8, ::8]


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """How far the gists of two results agree: the share of a mask's pixels, else all or nothing."""
    if found.shape != expected.shape:
        return 0.0
    return float((found == expected).mean()) if found.ndim == 2 else float((found == expected).all())
