"""Transforms of an image together with its boxes. All randomness comes from the generator that is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from ppcls_ext.core.bounds import LARGEST_SIDE
from ppcls_ext.core.operations import read_operations
from ppcls_ext.core.registry import Registry
from ppcls_ext.models.network_spec import LARGEST_STRIDE

INTERPOLATIONS = {  # name in configs and exports: OpenCV's number
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


class Sample(NamedTuple):
    """An image (uint8 RGB [H, W, 3]), boxes (float32 [n, 4], x1 y1 x2 y2 in its pixels) and classes (int64 [n])."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


Transform = Callable[[Sample, np.random.Generator], Sample]
TRANSFORMS = Registry("detection transform")
BATCH_TRANSFORMS = Registry("detection batch transform")


def _number(name: str, value: Any, low: float, high: float) -> float:
    """Raises ValueError if `value` is not a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    return value


def _range(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Raises ValueError if `value` is not a smaller and a larger number in [low, high]."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name}: expected two numbers, got {value!r}")
    smallest = _number(name, value[0], low, high)
    return smallest, _number(name, value[1], smallest, high)


def _iou_with_crop(boxes: np.ndarray, cut: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """IoU of each box with the crop, from the box's part inside it."""
    inside = np.clip(cut[:, 2:] - cut[:, :2], 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return inside / (areas + (crop[2:] - crop[:2]).prod() - inside)


class RandomCrop:
    """A crop that has at least a chosen IoU with some box; boxes whose centre is outside are dropped.

    Args:
        thresholds: the IoU is chosen among these, in random order until one can be had; None, which is added,
            leaves the image whole.
        scaling: range of the sides of the crop, relative to the image's.
        aspect_ratio: range of its width to height, relative to the image's.
        num_attempts: tries with each threshold.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        scaling: tuple[float, float] = (0.3, 1.0),
        aspect_ratio: tuple[float, float] = (0.5, 2.0),
        num_attempts: int = 50,
    ) -> None:
        if not isinstance(thresholds, (list, tuple)):
            raise ValueError(f"thresholds: expected a list of IoUs, got {thresholds!r}")
        self.thresholds = [*(_number("thresholds", t, 0, 1) for t in thresholds), None]
        self.scaling = _range("scaling", scaling, 0.01, 1)
        self.aspect_ratio = _range("aspect_ratio", aspect_ratio, 0.01, 100)
        if not self.aspect_ratio[0] <= 1 <= self.aspect_ratio[1]:
            raise ValueError(f"aspect_ratio: expected a range around 1, got {aspect_ratio!r}")
        self.num_attempts = int(_number("num_attempts", num_attempts, 1, 1000))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Crop the image and its boxes; one without boxes stays as it is."""
        if not len(sample.boxes):
            return sample
        largest = float((sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1).max())
        for index in rng.permutation(len(self.thresholds)):
            threshold = self.thresholds[index]
            if threshold is None:
                return sample
            for _ in range(self.num_attempts):
                cropped = self._try(sample, largest, threshold, rng)
                if cropped is not None:
                    return cropped
        return sample

    def _try(self, sample: Sample, largest: float, threshold: float, rng: np.random.Generator) -> Sample | None:
        """One crop; `largest` is the area of the largest box."""
        height, width = sample.image.shape[:2]
        scale = rng.uniform(*self.scaling)
        low, high = max(self.aspect_ratio[0], scale**2), min(self.aspect_ratio[1], scale**-2)
        ratio = np.sqrt(rng.uniform(low, high))
        h, w = int(height * scale / ratio), int(width * scale * ratio)
        if not (0 < h < height and 0 < w < width):
            return None
        y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
        # No box can have more than this IoU: most tries end here, where boxes are small. The margin is for rounding.
        if largest / (w * h) < threshold * (1 - 1e-3):
            return None
        crop = np.array([x, y, x + w, y + h], np.float32)
        boxes = sample.boxes
        cut = np.concatenate([np.maximum(boxes[:, :2], crop[:2]), np.minimum(boxes[:, 2:], crop[2:])], axis=1)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        keep = ((crop[:2] <= centres) & (centres <= crop[2:])).all(axis=1) & (cut[:, 2:] > cut[:, :2]).all(axis=1)
        if not keep.any() or _iou_with_crop(boxes, cut, crop).max() < threshold:
            return None
        return Sample(sample.image[y : y + h, x : x + w], cut[keep] - np.tile(crop[:2], 2), sample.classes[keep])


class RandomFlip:
    """Left to right, with probability `prob`."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _number("prob", prob, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Flip the image and its boxes, or leave both."""
        if rng.random() >= self.prob:
            return sample
        width = sample.image.shape[1]
        x1, y1, x2, y2 = sample.boxes.T
        boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
        return Sample(sample.image[:, ::-1], boxes, sample.classes)


class RandomDistort:
    """Brightness, contrast, saturation and hue in random order, each with probability `prob`.

    Args:
        hue: largest shift, degrees.
        saturation, contrast: range of the factor.
        brightness: range of the factor.
    """

    def __init__(
        self,
        hue: float = 18.0,
        saturation: tuple[float, float] = (0.5, 1.5),
        contrast: tuple[float, float] = (0.5, 1.5),
        brightness: tuple[float, float] = (0.5, 1.5),
        prob: float = 0.5,
    ) -> None:
        self.hue = _number("hue", hue, 0, 180)
        self.saturation = _range("saturation", saturation, 0, 10)
        self.contrast = _range("contrast", contrast, 0, 10)
        self.brightness = _range("brightness", brightness, 0, 10)
        self.prob = _number("prob", prob, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the colours; boxes stay."""
        image = sample.image
        changes = (self._brightness, self._contrast, self._saturation, self._hue)
        for index in rng.permutation(len(changes)):
            if rng.random() < self.prob:
                image = changes[index](image, rng)
        return sample._replace(image=image)

    def _brightness(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=rng.uniform(*self.brightness))

    def _contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = rng.uniform(*self.contrast)
        return _blend(image, np.full_like(image, round(float(image.mean()))), factor)

    def _saturation(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return _blend(image, np.repeat(grey[:, :, None], 3, axis=2), rng.uniform(*self.saturation))

    def _hue(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        shift = round(rng.uniform(-self.hue, self.hue) / 2)  # OpenCV counts hue in steps of two degrees
        hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int16) + shift) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """`factor` of the image and the rest of the other, cut to [0, 255]."""
    return cv2.addWeighted(np.ascontiguousarray(image), factor, other, 1 - factor, 0)


class BatchRandomResize:
    """One size and interpolation for a whole batch, without keeping the aspect ratio (PicoDet's way).

    Args:
        target_size: sizes to choose from, as a side or [height, width]; `auto`: the input size and two steps of 32
            to either side of it, none below 32.
        random_interp: also choose the interpolation; else linear.
        image_shape: of the network's input, (3, height, width).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        target_size: Sequence[int | Sequence[int]] | Literal["auto"] = "auto",
        random_interp: bool = True,
    ) -> None:
        if target_size == "auto":
            steps = range(-2 * LARGEST_STRIDE, 3 * LARGEST_STRIDE, LARGEST_STRIDE)
            sizes = [(image_shape[1] + s, image_shape[2] + s) for s in steps]
            self.sizes = [size for size in sizes if min(size) >= LARGEST_STRIDE]
        else:
            if not isinstance(target_size, (list, tuple)) or not target_size:
                raise ValueError(f"target_size: expected auto or a list of sizes, got {target_size!r}")
            self.sizes = [self._size(size) for size in target_size]
        self.random_interp = random_interp

    @staticmethod
    def _size(given: Any) -> tuple[int, int]:
        sides = [given, given] if isinstance(given, int) else given
        if (
            not isinstance(sides, (list, tuple))
            or len(sides) != 2
            or not all(
                isinstance(side, int) and LARGEST_STRIDE <= side <= LARGEST_SIDE and side % LARGEST_STRIDE == 0
                for side in sides
            )
        ):
            raise ValueError(
                f"target_size: sides must be multiples of {LARGEST_STRIDE}, up to {LARGEST_SIDE}, got {given!r}"
            )
        return sides[0], sides[1]

    def __call__(self, rng: np.random.Generator) -> tuple[tuple[int, int], str]:
        """((height, width), name of the interpolation) of a batch."""
        size = self.sizes[rng.integers(len(self.sizes))]
        return size, str(rng.choice(list(INTERPOLATIONS))) if self.random_interp else "linear"


for _transform in (RandomCrop, RandomFlip, RandomDistort):
    TRANSFORMS.register(_transform.__name__, _transform)
BATCH_TRANSFORMS.register(BatchRandomResize.__name__, BatchRandomResize)


def build_ops(ops: Sequence[Any] | None, registry: Registry, where: str, **given: Any) -> list[Any]:
    """The operations of a list. Raises UserError for an unknown operation or argument."""
    return [operation.build(registry, given=given) for operation in read_operations(ops or [], where)]


def resize(sample: Sample, size: tuple[int, int], interpolation: str = "linear") -> Sample:
    """Resize to (height, width), boxes too; `interpolation` is one of `INTERPOLATIONS`."""
    height, width = sample.image.shape[:2]
    image = cv2.resize(np.ascontiguousarray(sample.image), size[::-1], interpolation=INTERPOLATIONS[interpolation])
    scale = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    return Sample(image, sample.boxes * scale, sample.classes)
