"""What goes around an exported segmenter: from an image to its input, from its output to the class map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ppcls_ext.core.bounds import LARGEST_SIDE
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import normalize
from ppcls_ext.runtime.checks import numbers, shown, sides, whole
from ppcls_ext.runtime.inference import Inference, labels_do_not_fit, takes_pixels
from ppcls_ext.runtime.sources import Size
from ppcls_ext.runtime.transforms import PixelTables
from seg.results import SegResult

MOST_CLASSES = 256  # a class map has a byte for each pixel


class SegmentationInference(Inference):
    """Image to the class of each pixel."""

    columns = ("class", "label", "pixels", "share")
    column_types = (int, str, int, float)
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
        self._tables: PixelTables | None = None
        if not takes_pixels(preprocess):
            self._tables = PixelTables(lambda pixels: normalize(pixels, self.mean, self.std).transpose(1, 2, 0))
        elif self.size is None:
            raise UserError("preprocess.input: uint8 needs a fixed size, got none")

    def resized(self, size: Size) -> Size:
        """The size that an image has for the network, before padding."""
        width, height = size
        if self.size is not None:
            return self.size[1], self.size[0]
        scale = min(1.0, (self.max_side or max(height, width)) / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        """The network's input, float32 [3, H, W] or uint8 [H, W, 3], for uint8 RGB [H, W, 3]."""
        width, height = self.resized(size or (image.shape[1], image.shape[0]))
        if (height, width) != image.shape[:2]:
            shrinks = height * width < image.shape[0] * image.shape[1]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=method)
        if self._tables is None:
            return [np.ascontiguousarray(image)]
        array = self._tables(image)
        down, right = -height % self.multiple, -width % self.multiple
        if self.size is None and (down or right):  # evaluation pads in the same way
            array = np.pad(array, ((0, 0), (0, down), (0, right)))
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

    def result(self, outputs: Sequence[np.ndarray], *, size: Size, **about: Any) -> SegResult:
        """The class of each pixel of an image, at the image's own size."""
        (output,) = outputs
        classes = (output if output.ndim == 2 else output.argmax(0)).astype(np.uint8)
        width, height = self.resized(size)
        mask, counts = enlarged(np.ascontiguousarray(classes[:height, :width]), size, len(self.labels))
        return SegResult(
            labels=tuple(self.labels),
            mask=mask,
            pixels=tuple(int(count) for count in counts),
            palette=self.palette,
            size=size,
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


def enlarged(classes: np.ndarray, size: Size, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A class map at another size, and how many of its pixels have each of `count` classes.

    Args:
        classes: uint8 [h, w].
        size: width and height.
    Returns:
        uint8 [H, W] and int64 [count].
    """
    height, width = classes.shape
    if (width, height) == size:
        return classes, np.bincount(classes.reshape(-1), minlength=count)
    mask = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST)
    # Counting a photo's millions of pixels takes longer than the network. How often each row and column of the small
    # map comes up in the large one says the same.
    rows, columns = (_repeats(small, large) for small, large in ((height, size[1]), (width, size[0])))
    weights = np.outer(rows, columns).reshape(-1)
    return mask, np.bincount(classes.reshape(-1), weights, minlength=count).astype(np.int64)


def _repeats(small: int, large: int) -> np.ndarray:
    """How often each of `small` places is taken for one of `large` places by OpenCV's nearest resizing, int64."""
    places = np.arange(small, dtype=np.float32)[None]  # exact in float32, where uint8 would not hold them
    taken = cv2.resize(places, (large, 1), interpolation=cv2.INTER_NEAREST)
    return np.bincount(taken.reshape(-1).astype(np.int64), minlength=small)


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
