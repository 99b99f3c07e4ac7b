"""What goes around an exported detector: from an image to its input, from its outputs to boxes and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from det.boxes import detections, to_image
from det.transforms import Sample, resize
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import normalize
from ppcls_ext.runtime.inference import Inference

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6", "#000075")


class DetectionInference(Inference):
    """Image to boxes."""

    columns = ("label", "class", "score", "x1", "y1", "x2", "y2")
    forms: ClassVar[tuple[str, ...]] = ("table", "json", "csv", "coco")

    def __init__(self, recipe: Mapping[str, Any], threshold: float | None = None) -> None:
        """
        Args:
            threshold: least score of a box, in [0, 1]; default: the recipe's.
        """
        self.labels: list[str] = recipe["labels"]
        self.category_ids: list[int] = recipe["category_ids"]
        self.size: tuple[int, int] = tuple(recipe["preprocess"]["resize"])  # height, width
        # Exports made before there was a choice do not name it.
        self.interpolation: str = recipe["preprocess"].get("interpolation", "linear")
        post = dict(recipe["postprocess"])
        self.nms_in_graph: bool = post.pop("nms_in_graph")
        self.threshold: float = post.pop("threshold")
        if threshold is not None:
            self.threshold = threshold
        if not 0 <= self.threshold <= 1:
            raise UserError(f"infer --threshold: expected a score between 0 and 1, got {threshold}")
        self.nms = post

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        nothing = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        return [normalize(resize(nothing, self.size, self.interpolation).image)]

    def split(self, outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        return (
            [[rows] for rows in split_rows(outputs)[:images]] if self.nms_in_graph else super().split(outputs, images)
        )

    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray) -> dict[str, Any]:
        rows = outputs[0] if self.nms_in_graph else detections(outputs[0], outputs[1], **self.nms)
        height, width = image.shape[:2]
        # The operator gives its rows class by class; results are the best first.
        rows = to_image(rows[np.argsort(-rows[:, 1], kind="stable")], self.size[::-1], (width, height))
        found = [
            {
                "label": self.labels[int(row[0])],
                "class": int(row[0]),
                "score": round(float(row[1]), 6),
                "box": [round(float(v), 2) for v in row[2:]],
            }
            for row in rows
            if row[1] >= self.threshold
        ]
        return {"width": width, "height": height, "detections": found}

    def rows(self, result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return [(d["label"], d["class"], d["score"], *d["box"]) for d in result["detections"]]

    def draw(self, image: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
        found = result["detections"]
        texts = [f"{d['label']} {d['score']:.2f}" for d in found]
        return draw_boxes(image, [d["box"] for d in found], [d["class"] for d in found], texts)

    def document(self, form: str, results: Sequence[Mapping[str, Any]]) -> Any:
        """For `coco`: COCO's list of results. The image id is the file's name where all names are numbers, as in
        COCO itself, else the place in the list, from 1; `file_name` beside it says which image that is."""
        if form != "coco":
            return super().document(form, results)
        stems = [Path(r["image"]).stem for r in results]
        by_name = all(s.isdigit() for s in stems) and len({int(s) for s in stems}) == len(stems)
        return [
            {
                "image_id": int(stem) if by_name else place,
                "category_id": self.category_ids[d["class"]],
                "bbox": [d["box"][0], d["box"][1], d["box"][2] - d["box"][0], d["box"][3] - d["box"][1]],
                "score": d["score"],
                "file_name": result["image"],
            }
            for place, (stem, result) in enumerate(zip(stems, results, strict=True), start=1)
            for d in result["detections"]
        ]


def split_rows(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows of a whole batch and the count of each image, as the rows [K, 6] of each image."""
    rows, counts = outputs
    # Where nothing is found, the operator's shape is not [0, 6] in every engine.
    return np.split(rows.reshape(-1)[: 6 * int(counts.sum())].reshape(-1, 6), np.cumsum(counts)[:-1])


def draw_boxes(
    image: np.ndarray, boxes: Sequence[Sequence[float]], classes: Sequence[int], texts: Sequence[str]
) -> np.ndarray:
    """The image (uint8 RGB) with boxes x1 y1 x2 y2 and a text at each, in a colour for each class."""
    canvas = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(image.shape[:2]) / 240))
    font = ImageFont.load_default(max(10, round(min(image.shape[:2]) / 32)))
    for box, number, text in zip(boxes, classes, texts, strict=True):
        colour = COLOURS[number % len(COLOURS)]
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=line)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        start = max(0, min(x1, canvas.width - width))  # a name at the right border is shown whole
        above = y1 - height if y1 >= height else y1
        pen.rectangle((start, above, start + width, above + height), fill=colour)
        pen.text((start + 2 - left, above + 2 - top), text, fill="white", font=font)
    return np.asarray(canvas)
