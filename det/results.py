"""The result of a detector, and pictures of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppcls_ext.core.pictures import require_pillow
from ppcls_ext.core.text import one_line
from ppcls_ext.runtime.results import Result

LONGEST_TEXT = 200  # characters at a box
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6", "#000075")


@dataclass(frozen=True, kw_only=True, eq=False)
class DetResult(Result):
    """The boxes in an image, the best first.

    Attributes:
        labels: name of each box's class.
        scores: of each, in [0, 1].
        classes: number of each box's class.
        boxes: float32 [K, 4], x1 y1 x2 y2 in pixels of the image.
    """

    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))

    def content(self) -> dict[str, Any]:
        """The image's size and each box, rounded to a hundredth of a pixel; JSON-able."""
        found = zip(self.labels, self.classes, self.scores, self.boxes, strict=True)
        detections = [
            {"label": label, "class": k, "score": round(score, 6), "box": [round(float(v), 2) for v in box]}
            for label, k, score, box in found
        ]
        return {"width": self.size[0], "height": self.size[1], "detections": detections}

    def rows(self) -> list[tuple[Any, ...]]:
        """What was found as rows of a table."""
        return [(d["label"], d["class"], d["score"], *d["box"]) for d in self.content()["detections"]]

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image, uint8 RGB, with boxes and their labels."""
        texts = [f"{label} {score:.2f}" for label, score in zip(self.labels, self.scores, strict=True)]
        return draw_boxes(image, [[round(float(v), 2) for v in box] for box in self.boxes], self.classes, texts)


def draw_boxes(
    image: np.ndarray, boxes: Sequence[Sequence[float]], classes: Sequence[int], texts: Sequence[str]
) -> np.ndarray:
    """The image (uint8 RGB) with boxes x1 y1 x2 y2 and a text at each, in a colour for each class."""
    require_pillow()
    from PIL import Image, ImageDraw, ImageFont  # only for pictures: production does without them

    canvas = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(image.shape[:2]) / 240))
    font = ImageFont.load_default(max(10, round(min(image.shape[:2]) / 32)))
    for box, number, given in zip(boxes, classes, texts, strict=True):
        text = one_line(given, LONGEST_TEXT)
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
