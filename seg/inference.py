"""What goes around an exported segmenter: from an image to its input, from its output to the class map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import normalize
from ppcls_ext.runtime.checks import numbers, shown, sides, whole
from ppcls_ext.runtime.inference import Inference, labels_do_not_fit
from seg.results import SegResult

Size = tuple[int, int]  # height, width

LARGEST_SIDE = 16384
MOST_CLASSES = 256  # a class map has a byte for each pixel


class SegmentationInference(Inference):
    """Image to the class of each pixel."""

    columns = ("class", "label", "pixels", "share")
    result_type = SegResult

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.labels: list[str] = recipe["labels"]
        if len(self.labels) > MOST_CLASSES:
            raise UserError(f"labels: {len(self.labels)}, expected at most {MOST_CLASSES}")
        self.palette = _palette(recipe["postprocess"].get("palette"), len(self.labels))
        preprocess = recipe["preprocess"]
        self.mean = numbers(preprocess, "mean", "preprocess", 3, -1e6, 1e6)
        self.std = numbers(preprocess, "std", "preprocess", 3, 1e-6, 1e6)
        fixed, limit = preprocess.get("size"), preprocess.get("max_side")
        self.size = None if fixed is None else sides(preprocess, "size", "preprocess", LARGEST_SIDE)
        self.max_side = None if limit is None else whole(preprocess, "max_side", "preprocess", 1, LARGEST_SIDE)
        self.multiple = whole(preprocess, "multiple", "preprocess", 1, 1024)  # images of free size are padded to it

    def _network_size(self, image: np.ndarray) -> Size:
        """Height and width that an image has for the network, before padding."""
        height, width = image.shape[:2]
        if self.size is not None:
            return self.size
        scale = min(1.0, (self.max_side or max(height, width)) / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """The network's input, float32 [3, H, W], for uint8 RGB [H, W, 3]."""
        height, width = self._network_size(image)
        if (height, width) != image.shape[:2]:
            shrinks = height * width < image.shape[0] * image.shape[1]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=method)
        array = normalize(image, self.mean, self.std)
        if self.size is None:  # as in evaluation
            array = np.pad(array, ((0, 0), (0, -height % self.multiple), (0, -width % self.multiple)))
        return [array]

    def check_outputs(self, outputs: Sequence[np.ndarray]) -> None:
        """Raise UserError if there are other outputs, or other classes, than the recipe has."""
        if len(outputs) != 1 or outputs[0].ndim not in (3, 4):
            raise UserError(f"outputs: a segmenter gives one class map or logits, this network {len(outputs)}")
        (output,) = outputs
        if output.ndim == 4 and output.shape[1] != len(self.labels):
            raise labels_do_not_fit(self.labels, output.shape[1])
        if output.ndim == 3 and output.size and not 0 <= output.min() <= output.max() < len(self.labels):
            raise UserError(f"labels: {len(self.labels)}, but a pixel has class {int(output.max())}; export again")

    def difference(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
        """Share of pixels that differ, or the largest difference of a logit relative to the largest one."""
        return output_difference(found, expected)

    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray, **about: Any) -> SegResult:
        """The class of each pixel of an image, at the image's own size."""
        (output,) = outputs
        classes = (output if output.ndim == 2 else output.argmax(0)).astype(np.uint8)
        height, width = self._network_size(image)
        classes = classes[:height, :width]
        if classes.shape != image.shape[:2]:
            classes = cv2.resize(classes, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        counts = np.bincount(classes.reshape(-1), minlength=len(self.labels))
        return SegResult(
            labels=tuple(self.labels),
            mask=classes,
            pixels=tuple(int(count) for count in counts),
            palette=self.palette,
            **about,
        )


def output_difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """How far outputs are apart: class maps by the share of pixels that differ, logits relative to the largest one."""
    (a,), (b,) = found, expected
    if a.shape != b.shape:
        return 1.0
    if a.dtype.kind in "iu":
        return float((a != b).mean())
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-6))


def _palette(values: Any, classes: int) -> list[list[int]]:
    """RGB colour of each class, from a recipe."""
    colours = values if isinstance(values, list) else []
    if len(colours) != classes or not all(_is_colour(colour) for colour in colours):
        raise UserError(
            f"postprocess.palette: expected a colour [r, g, b] for each of {classes} labels, got {shown(values)}"
        )
    return colours


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)
