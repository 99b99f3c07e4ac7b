"""How a camera was held, by the EXIF tag of its picture; read from a file's header, without decoding its pixels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image

from ppcls_ext.core.images import PILLOW_FORMATS, BrokenImage
from ppcls_ext.core.reading import Unreadable, check_regular

AS_STORED = 1  # the orientation of an image that is not turned


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """A file as an image of Pillow, of which nothing is decoded yet; what is done inside may decode it.

    Raises:
        BrokenImage: it cannot be read, is too large for Pillow, or what is done inside finds it damaged. It is no
            regular file.
    """
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what this package checks by itself
            with Image.open(path, formats=PILLOW_FORMATS) as image:
                yield image
    except BrokenImage:
        raise
    except Unreadable as error:
        raise BrokenImage(f"image {path}: {error}; fix the path or remove it from the list") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(f"image {path}: cannot be decoded ({why}); replace the file") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; `AS_STORED` where it has none."""
    return int(image.getexif().get(ExifTags.Base.Orientation, AS_STORED))


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of an image file. Raises BrokenImage for one that Pillow cannot open."""
    with opened(path) as image:
        return orientation(image)


def swaps_sides(orientation: int) -> bool:
    """Whether turning an image upright turns it by a quarter, which exchanges width and height."""
    return orientation in (5, 6, 7, 8)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image once it is turned upright."""
    return image.size[::-1] if swaps_sides(orientation(image)) else image.size
