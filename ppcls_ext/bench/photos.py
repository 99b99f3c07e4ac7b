"""Photos to measure with where the user gives none: as large, and as hard to decode, as those of cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

SIZES = ((500, 375), (4000, 3000))  # width, height: a picture of the web, and one of a phone
EACH = 3  # each size has so many photos
QUALITY = 92  # JPEG quality, about what phones write
CONTRAST = 45.0  # spread of the coarsest blobs: the standard deviation of their values
DETAIL = 0.72  # blobs of half the size have this share of the contrast
NOISE = 4.0  # the least contrast, as of a sensor's noise: without it a JPEG decodes far too fast


def write_photos(folder: Path, seed: int = 0) -> dict[str, list[Path]]:
    """Write JPEGs of each of `SIZES`; gives their paths by `WIDTHxHEIGHT`."""
    found: dict[str, list[Path]] = {}
    for width, height in SIZES:
        files = [folder / f"{width}x{height}_{number}.jpg" for number in range(EACH)]
        for number, file in enumerate(files):
            photo = draw_photo(width, height, np.random.default_rng([seed, number]))
            cv2.imwrite(str(file), photo, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        found[f"{width}x{height}"] = files
    return found


def draw_photo(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Blobs of every size, the finer the fainter as in nature, and noise; uint8 BGR [height, width, 3]."""
    octaves = max(1, (min(width, height) // 3).bit_length() - 1)
    photo = np.full((1, 1, 3), 120, np.float32)
    for octave in reversed(range(octaves)):
        size = (-(-width // 2**octave), -(-height // 2**octave))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
        detail = rng.standard_normal((size[1], size[0], 1), np.float32)
        # Nature's colours differ less than its brightness.
        colour = rng.standard_normal((-(-size[1] // 4), -(-size[0] // 4), 3), np.float32)
        detail = detail + 0.5 * cv2.resize(colour, size, interpolation=cv2.INTER_LINEAR)
        photo += max(NOISE, CONTRAST * DETAIL ** (octaves - octave)) * detail
    return np.clip(photo, 0, 255).astype(np.uint8)


def name_photos(photos: Sequence[Path]) -> Mapping[str, list[Path]]:
    """The user's photos as the one set that is measured."""
    return {f"{len(photos)} images": list(photos)}
