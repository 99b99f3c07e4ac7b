"""What is done to an image before the network, in NumPy and OpenCV: equal to the last bit to what evaluation does.

The operations bear PaddleClas's names and take its arguments, because recipes name them so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from ppcls_ext.core.bounds import LARGEST_SIDE
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry
from ppcls_ext.core.text import shown

OPERATIONS = Registry("operation")

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
PILLOW_FILTERS = ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming")


class PixelTables:
    """What an operation does to each value of a uint8 image by itself, as a table for each channel.

    Bit-equal to the operation, since the tables are made by it; one pass over the pixels, where an operation in NumPy
    takes four and a copy.

    Args:
        operation: from [H, W, 3] to float32 [H, W, 3], each value by itself.
    """

    def __init__(self, operation: Callable[[np.ndarray], np.ndarray]) -> None:
        every = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
        self._tables = [np.ascontiguousarray(table, np.float32) for table in operation(every)[:, 0].T]

    def __call__(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [H, W, 3] to float32 [3, H, W], contiguous; into `out`, where that is given."""
        out = np.empty((3, *image.shape[:2]), np.float32) if out is None else out
        for channel, table, target in zip(cv2.split(image), self._tables, out, strict=True):
            cv2.LUT(channel, table, target)
        return out


def _side(value: Any, key: str) -> int:
    if type(value) is not int or not 0 < value <= LARGEST_SIDE:
        raise ValueError(f"{key} must be a number of pixels from 1 to {LARGEST_SIDE}, got {value!r}")
    return value


def _size(value: Any) -> tuple[int, int]:
    """Width and height: PaddleClas takes one number for both, or two."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _side(value[0], "size"), _side(value[1], "size")
    return _side(value, "size"), _side(value, "size")


class ResizeImage:
    """Resize to a fixed size, or so that the short edge has `resize_short` pixels.

    Args:
        size: width and height, or one number for both.
        interpolation: bilinear, nearest, area, bicubic or lanczos; with backend pil also box and hamming.
        backend: cv2, or pil for Pillow's filters (which then has to be installed).
    """

    def __init__(
        self,
        size: Any = None,
        resize_short: int | None = None,
        interpolation: str | int | None = None,
        backend: str = "cv2",
        return_numpy: bool = True,
    ) -> None:
        self.short = _side(resize_short, "resize_short") if resize_short else None
        if self.short is None and size is None:
            raise ValueError("one of size and resize_short is needed")
        self.size = None if size is None or self.short is not None else _size(size)
        if return_numpy is not True:
            raise ValueError("return_numpy must be true")
        self._resize = _resizer(str(backend).lower(), interpolation)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the outcome for an image of this width and height."""
        if self.size is not None:
            return self.size
        width, height = size
        assert self.short is not None
        factor = float(self.short) / min(width, height)
        return round(width * factor), round(height * factor)

    def __call__(self, image: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Resize an image.

        Args:
            size: width and height of the image of which this is a smaller copy.
        """
        width, height = size or image.shape[1::-1]
        wide, high = self.resized((width, height))
        if max(wide, high) > LARGEST_SIDE:
            raise UserError(f"image of {width} x {height}: with the short edge at {self.short} it is too long")
        return self._resize(image, (wide, high))


def _resizer(backend: str, interpolation: str | int | None) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    if backend == "cv2":
        method = INTERPOLATIONS.get(interpolation.lower()) if isinstance(interpolation, str) else interpolation
        if (method is None and interpolation is not None) or method not in (None, *INTERPOLATIONS.values()):
            raise ValueError(f"interpolation {interpolation!r}; {nearest(str(interpolation), INTERPOLATIONS)}")
        method = cv2.INTER_LINEAR if method is None else method
        return lambda image, size: cv2.resize(image, size, interpolation=method)
    if backend != "pil":
        raise ValueError(f"backend must be cv2 or pil, got {backend!r}")
    name = interpolation.lower() if isinstance(interpolation, str) else interpolation
    if name is not None and name not in PILLOW_FILTERS:
        raise ValueError(f"interpolation {interpolation!r}; {nearest(str(interpolation), PILLOW_FILTERS)}")
    return lambda image, size: _resize_by_pillow(image, size, name)


def _resize_by_pillow(image: np.ndarray, size: tuple[int, int], name: str | int | None) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("preprocess: this export resizes with Pillow; python -m pip install pillow") from error
    method = None if name is None else getattr(Image.Resampling, str(name).upper())
    return np.asarray(Image.fromarray(image).resize(size, method))


class CropImage:
    """The middle of the image.

    Args:
        size: width and height, or one number for both.
    """

    def __init__(self, size: Any) -> None:
        self.size = _size(size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run it on [H, W, 3]."""
        width, height = self.size
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width, :]


LARGEST_STATISTIC = 1000  # bounds means, deviations and scales, as in training
ORDERS = ("chw", "hwc", "", None)


class NormalizeImage:
    """`(image * scale - mean) / std`, float32.

    Args:
        scale: a number, or a quotient such as 1.0/255.0 as text.
        order: chw; hwc or nothing for channels last.
    """

    def __init__(
        self,
        scale: Any = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        order: str = "chw",
        output_fp16: bool = False,
        channel_num: int = 3,
    ) -> None:
        if output_fp16 or channel_num != 3:
            raise ValueError("output_fp16 and channel_num are for other networks; leave them out")
        if order not in ORDERS:
            raise ValueError(f"order must be chw or hwc, got {shown(order)}")
        self.channels_last = order != "chw"
        self.scale = np.float32(1.0 / 255.0 if scale is None else fraction(scale))
        if not 0 < self.scale <= LARGEST_STATISTIC:
            raise ValueError(f"scale must be above 0 and up to {LARGEST_STATISTIC}, got {shown(scale)}")
        shape = (1, 1, 3) if self.channels_last else (3, 1, 1)
        self.mean = _statistic("mean", (0.485, 0.456, 0.406) if mean is None else mean).reshape(shape)
        self.std = _statistic("std", (0.229, 0.224, 0.225) if std is None else std).reshape(shape)
        if not np.all(self.std > 0):
            raise ValueError("std must be above 0")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run it on [H, W, 3]."""
        array = image.astype(np.float32)  # a copy, so what follows may be done in place
        array *= self.scale
        array -= self.mean
        array /= self.std
        return array


def _statistic(key: str, values: Any) -> np.ndarray:
    numbers = isinstance(values, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= LARGEST_STATISTIC for v in values
    )
    if not numbers or len(values) not in (1, 3):
        raise ValueError(
            f"{key} must be a number for each channel, of at most {LARGEST_STATISTIC}, got {shown(values)}"
        )
    return np.array([*values] * (3 // len(values)), np.float64).astype(np.float32)


def fraction(value: Any) -> float:
    """A number, also one that is written as a quotient (`1.0/255.0`), which PaddleClas evaluates as Python.

    Raises:
        ValueError: anything else.
    """
    parts = value.split("/") if isinstance(value, str) else [value]
    try:
        if len(parts) > 2 or isinstance(value, bool):
            raise ValueError
        number = float(parts[0]) / (float(parts[1]) if len(parts) == 2 else 1.0)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError(f"'{value}' is not a number or a quotient such as 1.0/255.0") from None
    if not np.isfinite(number):
        raise ValueError(f"'{value}' is not a finite number")
    return number


class ToCHWImage:
    """Channels first."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run it on [H, W, 3]."""
        return image.transpose(2, 0, 1)


for _operation in (ResizeImage, CropImage, NormalizeImage, ToCHWImage):
    OPERATIONS.register(_operation.__name__, _operation)
