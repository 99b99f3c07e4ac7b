"""From what a caller hands in to an image: paths, the content of a file, NumPy arrays, PIL images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from ppcls_ext.core.bounds import MAX_PIXELS
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import (
    BrokenImage,
    check_header,
    check_pixels,
    decode_rgb,
    is_jpeg,
    read_bytes,
)

Channels = Literal["rgb", "bgr"]
Size = tuple[int, int]  # width, height
Resized = Callable[[Size], "Size | None"]  # the size to which preprocessing brings an image, before anything else

REDUCTIONS = (8, 4, 2)  # a JPEG is decoded at one over this; libjpeg-turbo has fast code for these
LEFT_OVER = 2  # at least so many times the needed sides are decoded, so that the resizing still decides what is seen
RAISE = ", or raise max_pixels"


def source_name(item: Any) -> str:
    """What results and errors call an image: its path, or what kind of thing it is."""
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return "<bytes>"
    return "<array>" if isinstance(item, np.ndarray) else f"<{type(item).__name__}>"


class Picture(NamedTuple):
    """An image that was read.

    Attributes:
        pixels: uint8 RGB [H, W, 3], upright; smaller than the image where a JPEG was decoded at reduced scale.
        size: of the whole image, upright.
    """

    pixels: np.ndarray
    size: Size


def read_image(item: Any, channels: Channels | None = None, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """An image as uint8 RGB [H, W, 3], as evaluation reads it. Arguments and errors: see `read_picture`."""
    return read_picture(item, channels, max_pixels).pixels


def read_picture(
    item: Any,
    channels: Channels | None = None,
    max_pixels: int | None = MAX_PIXELS,
    resized: Resized | None = None,
) -> Picture:
    """An image, upright by EXIF; grey and alpha become RGB.

    Args:
        item: a path, the content of an image file as bytes, a uint8 array [H, W, 3], or a PIL image.
        channels: order of an array's channels, which nothing but the caller can know.
        max_pixels: an image whose header states more is not decoded; None decodes any.
        resized: lets JPEGs be decoded at 1/2, 1/4 or 1/8 where that leaves at least twice the sides that it gives;
            None decodes every image in full, as evaluation does.
    Raises:
        BrokenImage: an image that cannot be read or is too large.
        UserError: an array of another shape or type, or without its channels; another kind of thing.
    """
    if isinstance(item, (str, os.PathLike)):
        return _decoded(read_bytes(Path(item)), source_name(item), max_pixels, resized)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decoded(np.frombuffer(item, np.uint8), source_name(item), max_pixels, resized)
    if isinstance(item, np.ndarray):
        return _whole(_rgb_array(item, channels, max_pixels))
    if hasattr(item, "getexif") and hasattr(item, "convert"):  # a PIL image, without importing Pillow
        return _whole(_rgb_of_pil(item, max_pixels))
    raise UserError(f"image of type {type(item).__name__}: give a path, bytes, a uint8 array [H, W, 3] or a PIL image")


def reduction(size: Size, resized: Resized) -> int:
    """The largest reduction of a JPEG of this size that leaves `LEFT_OVER` times what is needed; 1 where none does."""
    # EXIF may turn the image after decoding: what is left must do for both ways.
    sides: list[tuple[int, int]] = []  # there, and needed
    for way in (size, size[::-1]):
        needed = resized(way)
        if needed is None:
            return 1
        sides += zip(way, needed, strict=True)
    enough = (factor for factor in REDUCTIONS if all(have >= factor * LEFT_OVER * need for have, need in sides))
    return next(enough, 1)


def _whole(pixels: np.ndarray) -> Picture:
    return Picture(pixels, (pixels.shape[1], pixels.shape[0]))


def _decoded(data: np.ndarray, name: str, max_pixels: int | None, resized: Resized | None) -> Picture:
    wanted = max_pixels is not None or resized is not None
    stated = check_header(data, name, max_pixels, RAISE) if wanted else None
    if stated is None or resized is None or not is_jpeg(data) or (factor := reduction(stated, resized)) == 1:
        return _whole(decode_rgb(data, name))
    whole = _whole(decode_rgb(data, name, reduction=factor))
    # Some builds of OpenCV decode in full whatever they are asked for: what came is what counts.
    for size in (stated, stated[::-1]):
        if whole.size == (-(-size[0] // factor), -(-size[1] // factor)):
            return Picture(whole.pixels, size)
    return whole


def _rgb_array(array: np.ndarray, channels: Channels | None, max_pixels: int | None) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"image array: expected uint8 [H, W, 3], got {array.dtype} {list(array.shape)}")
    if channels not in ("rgb", "bgr"):
        given = "" if channels is None else f", got {channels!r}"
        raise UserError(f'image array: say channels="rgb", or channels="bgr" as OpenCV reads images{given}')
    check_pixels(array.shape[1::-1], source_name(array), max_pixels, RAISE)
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if channels == "bgr" else array


def _rgb_of_pil(image: Any, max_pixels: int | None) -> np.ndarray:
    from PIL import ImageOps

    check_pixels(image.size, source_name(image), max_pixels, RAISE)
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow would cut off what is above 255
        raise UserError(f"image {source_name(image)}: mode {image.mode} has more than 8 bits; scale it to 8 bits first")
    try:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # decoding happens here, and Pillow raises many kinds for damaged files
        raise BrokenImage(f"image {source_name(image)}: {' '.join(str(error).split())}; replace it") from error
