"""What goes around an exported detector: from an image to its input, from its outputs to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from det.boxes import detections, largest_difference, to_image
from det.results import DetResult
from det.transforms import INTERPOLATIONS, Sample, resize
from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import normalize
from ppcls_ext.core.text import is_digits
from ppcls_ext.runtime.checks import choice, real, shown, sides, whole
from ppcls_ext.runtime.inference import Inference, labels_do_not_fit, takes_pixels
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Size
from ppcls_ext.runtime.transforms import PixelTables

LARGEST_INPUT = 8192  # the network's input is at most this high and wide
MOST_BOXES = 1_000_000


class DetectionInference(Inference):
    """Image to boxes."""

    columns = ("label", "class", "score", "x1", "y1", "x2", "y2")
    column_types = (str, int, float, float, float, float, float)
    forms: ClassVar[tuple[str, ...]] = (*Inference.forms, "coco")

    result_type = DetResult

    def __init__(self, recipe: Mapping[str, Any], threshold: float | None = None) -> None:
        """
        Args:
            threshold: least score of a box, in [0, 1]; default: the recipe's.
        """
        self.labels: list[str] = recipe["labels"]
        self.category_ids = _category_ids(recipe.get("category_ids"), len(self.labels))
        self.size = sides(recipe["preprocess"], "resize", "preprocess", LARGEST_INPUT)
        # Exports made before there was a choice do not name it.
        self.interpolation = choice(recipe["preprocess"], "interpolation", "preprocess", INTERPOLATIONS, "linear")
        in_graph = takes_pixels(recipe["preprocess"])
        self._tables = None if in_graph else PixelTables(lambda pixels: normalize(pixels).transpose(1, 2, 0))
        post = recipe["postprocess"]
        # Where NMS is in the graph, outputs show a class only if one of its boxes is found. Earlier exports do not say.
        classes = whole(post, "classes", "postprocess", 1, MOST_CLASSES) if "classes" in post else len(self.labels)
        if classes != len(self.labels):
            raise labels_do_not_fit(self.labels, classes)
        self.threshold = real(post, "threshold", "postprocess", 0, 1) if threshold is None else threshold
        if not isinstance(self.threshold, Real) or isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise UserError(f"threshold: expected a score between 0 and 1, got {threshold!r}")
        self.nms: dict[str, Any] = {
            "score_threshold": real(post, "score_threshold", "postprocess", 0, 1),
            "nms_threshold": real(post, "nms_threshold", "postprocess", 0, 1),
            "nms_top_k": whole(post, "nms_top_k", "postprocess", 1, MOST_BOXES),
            "keep_top_k": whole(post, "keep_top_k", "postprocess", 1, MOST_BOXES),
        }

    def resized(self, size: Size) -> Size | None:
        """The size of the network's input."""
        return self.size[1], self.size[0]

    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        """The network's input, float32 [3, H, W] or uint8 [H, W, 3], for uint8 RGB [H, W, 3]."""
        nothing = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        pixels = resize(nothing, self.size, self.interpolation).image
        return [pixels if self._tables is None else self._tables(pixels)]

    def split(self, outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        """The rows [K, 6] of each image, or its scores and boxes where NMS is outside the graph."""
        return super().split(outputs, images) if are_raw(outputs) else [[rows] for rows in split_rows(outputs)[:images]]

    def check_outputs(self, outputs: Sequence[np.ndarray]) -> None:
        """Raise UserError if there are other outputs, or other classes, than the recipe has."""
        if len(outputs) != 2:
            raise UserError(f"outputs: a detector gives two, this network {len(outputs)}")
        if are_raw(outputs):
            if outputs[0].shape[1] != len(self.labels):
                raise labels_do_not_fit(self.labels, outputs[0].shape[1])
            return
        classes = np.concatenate([rows[:, 0] for rows in split_rows(outputs)])
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.labels):
            raise UserError(f"labels: {len(self.labels)}, but a box has class {int(classes.max())}; export again")

    def difference(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
        """How far outputs are apart: a score, or a corner in units of the input's longer side."""
        side = max(self.size)
        if are_raw(found):
            return raw_difference(found, expected, side)
        return rows_difference(found, expected, side, self.nms["score_threshold"], int(self.nms["keep_top_k"]))

    def result(self, outputs: Sequence[np.ndarray], *, size: Size, **about: Any) -> DetResult:
        """The boxes of an image, in its pixels."""
        rows = outputs[0] if len(outputs) == 1 else detections(outputs[0], outputs[1], **self.nms)
        # The operator gives its rows class by class; results are the best first.
        rows = to_image(rows[np.argsort(-rows[:, 1], kind="stable")], self.size[::-1], size)
        rows = rows[rows[:, 1] >= self.threshold]
        classes = tuple(int(k) for k in rows[:, 0])
        return DetResult(
            labels=tuple(self.labels[k] for k in classes),
            scores=tuple(float(score) for score in rows[:, 1]),
            classes=classes,
            boxes=rows[:, 2:],
            size=size,
            **about,
        )

    def document(self, form: str, results: Sequence[Result]) -> Any:
        """For `coco`: COCO's list of results. The image id is the file's name where all names are numbers, as in
        COCO itself, else the index in the list, from 1; `file_name` beside it says which image that is."""
        if form != "coco":
            return super().document(form, results)
        stems = [Path(r.source).stem for r in results]
        by_name = all(is_digits(s) for s in stems) and len({int(s) for s in stems}) == len(stems)
        return [
            {
                "image_id": int(stem) if by_name else index,
                "category_id": self.category_ids[d["class"]],
                "bbox": [d["box"][0], d["box"][1], d["box"][2] - d["box"][0], d["box"][3] - d["box"][1]],
                "score": d["score"],
                "file_name": result.source,
            }
            for index, (stem, result) in enumerate(zip(stems, results, strict=True), start=1)
            for d in result.content()["detections"]
        ]


def _category_ids(values: Any, classes: int) -> list[int]:
    """The data set's id of each class, from a recipe."""
    if not isinstance(values, list) or len(values) != classes or not all(type(v) is int for v in values):
        raise UserError(f"category_ids: expected a number for each of {classes} labels, got {shown(values)}")
    return values


def split_rows(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows of a whole batch and the count of each image, as the rows [K, 6] of each image."""
    rows, counts = outputs
    # Where nothing is found, the operator's shape is not [0, 6] in every engine.
    return np.split(rows.reshape(-1)[: 6 * int(counts.sum())].reshape(-1, 6), np.cumsum(counts)[:-1])


def are_raw(outputs: Sequence[np.ndarray]) -> bool:
    """Whether outputs of a batch are scores [N, classes, M] and boxes, to which NMS is still to be applied. Formats of
    one export may differ in that."""
    return outputs[0].ndim == 3


def raw_difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], side: int) -> float:
    """Largest difference of a score, or of a corner in units of the input's longer `side`, before NMS."""
    scores, boxes = (float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    return max(scores, boxes / side)


def rows_difference(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], side: int, threshold: float, keep: int
) -> float:
    """Largest difference of outputs after NMS, whose rows may come in another order; see `largest_difference`."""
    images = zip(split_rows(found), split_rows(expected), strict=True)
    return max(largest_difference(a, b, float(side), threshold, keep) for a, b in images)
