"""How a camera was held, by the EXIF tag of its picture; read from a file's header, without decoding its pixels."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

AS_STORED = 1  # the orientation of an image that is not turned


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; `AS_STORED` where it has none."""
    return int(image.getexif().get(ExifTags.Base.Orientation, AS_STORED))


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of an image file. Raises OSError for a file that Pillow cannot open."""
    with Image.open(path) as image:
        return orientation(image)


def swaps_sides(orientation: int) -> bool:
    """Whether turning upright is by a quarter, so that width and height change places."""
    return orientation in (5, 6, 7, 8)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image once it is turned upright."""
    return image.size[::-1] if swaps_sides(orientation(image)) else image.size
