"""Colours of classes: palettes, label images, overlays."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ppcls_ext.core.files import atomic_write
from ppcls_ext.core.pictures import require_pillow

if TYPE_CHECKING:
    from PIL import Image

GOLDEN = 0.618034  # turn of the colour wheel from a class to the next, so that their hues lie far apart
SHARE = 0.55  # how much of an overlay's pixel is the colour of its class, the rest being the image


def palette(classes: int) -> list[tuple[int, int, int]]:
    """Distinct RGB colours; class 0, the background of most data, is black."""
    colours = [(0, 0, 0)]
    for k in range(1, classes):
        red, green, blue = colorsys.hsv_to_rgb(k * GOLDEN % 1.0, 0.85 if k % 2 else 0.55, 1.0 if k % 3 else 0.75)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours[:classes]


def overlay(image: np.ndarray, classes: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour an image by its class map, with outlines; black classes and ignored pixels leave it as it is.

    Args:
        image: uint8 RGB [H, W, 3].
        classes: uint8 [H, W].
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    painted = table[classes]
    shown = painted.any(axis=2)
    mixed = image.copy()
    mixed[shown] = (image[shown] * (1 - SHARE) + painted[shown] * SHARE).astype(np.uint8)
    edges = cv2.dilate(classes, np.ones((3, 3), np.uint8)) != classes
    mixed[edges] = 255
    return mixed


def save_labels(path: Path, classes: np.ndarray, colours: Sequence[Sequence[int]]) -> None:
    """Write a class map as a palette PNG: its values are the classes, viewers show the colours."""
    picture = _labels_picture(classes, colours)
    atomic_write(path, lambda temporary: picture.save(temporary, format="PNG"))


def png_of_labels(classes: np.ndarray, colours: Sequence[Sequence[int]]) -> bytes:
    """The file that `save_labels` writes, compressed for speed."""
    data = io.BytesIO()
    _labels_picture(classes, colours).save(data, format="PNG", compress_level=1)
    return data.getvalue()


def _labels_picture(classes: np.ndarray, colours: Sequence[Sequence[int]]) -> Image.Image:
    require_pillow()
    from PIL import Image  # only for pictures: production does without it

    picture = Image.fromarray(classes.astype(np.uint8)).convert("P")
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    picture.putpalette(table.tobytes())
    return picture
