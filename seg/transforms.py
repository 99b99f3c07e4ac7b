"""Transforms of an image together with its mask. All randomness comes from the generator that is handed in."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from seg.sections import IGNORE, AugmentSection


def crop_and_flip(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    settings: AugmentSection,
    fill: Sequence[float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale by a random step, cut a random window of `size` (height, width), mirror it.

    Where the scaled image is smaller than the window it is padded right and below: with `fill` (RGB), the mask
    with `IGNORE`. All of it is one affine map, so it costs the same at every scale of every image.
    """
    low, high, step = settings.scale
    factors = low + step * np.arange(int((high - low) / step * (1 + 1e-9)) + 1)  # the margin is for rounding
    factor = float(factors[rng.integers(len(factors))])
    height, width = size
    scaled = round(image.shape[0] * factor), round(image.shape[1] * factor)
    top, left = (int(rng.integers(max(full - part, 0) + 1)) for full, part in zip(scaled, size, strict=True))
    mirror = rng.random(2) < (settings.flip, settings.vertical_flip)
    # Pixel x of the window is at (x + left + 1/2) / factor - 1/2 of the image, counted from the other end if mirrored.
    rows = []
    for axis, (start, end) in enumerate(((left, width), (top, height))):
        sign, origin = (-1, end - 1) if mirror[axis] else (1, 0)
        row = [0.0, 0.0, (origin + start + 0.5) / factor - 0.5]
        row[axis] = sign / factor
        rows.append(row)
    matrix, edge, inverse = np.array(rows), cv2.BORDER_CONSTANT, cv2.WARP_INVERSE_MAP
    linear, nearest = cv2.INTER_LINEAR | inverse, cv2.INTER_NEAREST | inverse
    image = cv2.warpAffine(image, matrix, (width, height), flags=linear, borderMode=edge, borderValue=tuple(fill))
    mask = cv2.warpAffine(mask, matrix, (width, height), flags=nearest, borderMode=edge, borderValue=IGNORE)
    return image, mask


def distort(image: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and colour, each with even chance by a factor within 1 +- spread, in random order."""
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    picture = Image.fromarray(image)
    for index in rng.permutation(len(changes)):
        if rng.random() < 0.5:
            picture = changes[index](picture).enhance(rng.uniform(1 - spread, 1 + spread))
    return np.asarray(picture)
