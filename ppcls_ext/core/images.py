"""Image files: finding, reading, checking."""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import os
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.core.bombs import MOST_CHUNKS, why_endless
from ppcls_ext.core.bounds import MAX_PIXELS
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.headers import image_size
from ppcls_ext.core.reading import Unreadable, check_regular

# OpenCV's own threads do not survive the fork of loader workers: a worker that uses them waits for ever.
cv2.setNumThreads(0)
# OpenCV logs lines of its own on stderr about a file that it cannot decode; BrokenImage says it in one.
cv2.setLogLevel(0)

# What OpenCV is asked for at each reduction, beside the colours.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# OpenCV from 4.11 on can have libjpeg write RGB, which saves a pass over the image.
_RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
LARGEST_FILE = 2**31  # bytes; 134 megapixels of four 16-bit channels take half of it

# What Pillow may decode: among the others are some that start programs, as EPS does.
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")

REPLACE_FILE = "; replace the file or remove it from the list"


class BrokenImage(UserError):
    """An image file that is missing or cannot be decoded in full."""


def read_bytes(path: str | Path) -> np.ndarray:
    """What an image file holds, uint8 [n]. Raises BrokenImage if it is no regular file, larger than any image that is
    decoded, or cannot be read.
    """
    try:
        check_regular(path, LARGEST_FILE)
        return np.fromfile(path, np.uint8)
    except Unreadable as error:
        raise BrokenImage(f"image {path}: {error}; fix the path or remove it from the list") from error
    except OSError as error:
        raise BrokenImage(
            f"image {path}: {error.strerror or error}; fix the path or remove it from the list"
        ) from error


def check_pixels(size: tuple[int, int], name: str | Path, max_pixels: int | None = MAX_PIXELS, cure: str = "") -> None:
    """Raise BrokenImage if (width, height) are more pixels than are decoded; None decodes any.

    Args:
        cure: what else than to shrink the image can be done.
    """
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise BrokenImage(
            f"image {name}: {size[0]} x {size[1]} are more pixels than max_pixels={max_pixels} allows; shrink it{cure}"
        )


def check_header(
    data: np.ndarray, name: str | Path, max_pixels: int | None = MAX_PIXELS, cure: str = ""
) -> tuple[int, int] | None:
    """Let nothing to the decoder that has no readable header or is too large; an empty file is left to it.

    Returns:
        the width and height that the header states; None where it states none and any size is decoded.
    Raises:
        BrokenImage: see `check_pixels`; not an image of a known kind.
    """
    size = image_size(data) if data.size else None
    if size is not None:
        check_pixels(size, name, max_pixels, cure)
    elif data.size and max_pixels is not None:
        raise BrokenImage(f"image {name}: not an image of a known kind{REPLACE_FILE}")
    return size


def is_jpeg(data: np.ndarray) -> bool:
    """Whether the content of a file, uint8 [n], begins as a JPEG does."""
    return data[:3].tobytes() == b"\xff\xd8\xff"


def decode_rgb(data: np.ndarray, name: str | Path, upright: bool = True, reduction: int = 1) -> np.ndarray:
    """Decode the content of an image file to uint8 [H, W, 3], RGB; grey and alpha become RGB.

    Args:
        data: uint8 [n].
        name: what errors call the image.
        upright: turn it by its EXIF orientation; False leaves it as it is stored.
        reduction: decode a JPEG at 1/2, 1/4 or 1/8 of its sides, rounded up. A decoder that cannot gives all of it.
    Raises:
        BrokenImage: empty, truncated, not an image, or made to take minutes.
    """
    endless = why_endless(data)
    if endless is not None:
        raise BrokenImage(f"image {name}: {endless}, which would take long to decode; save it again in an image editor")
    is_rgb = _RGB != 0 and is_jpeg(data)
    flags = _REDUCED[reduction] | (_RGB if is_rgb else cv2.IMREAD_COLOR)
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = None
    if data.size and not is_damaged(data):
        with contextlib.suppress(cv2.error):  # it raises where a header asks for more than it allocates
            image = cv2.imdecode(data, flags)
    if image is None:
        raise BrokenImage(f"image {name}: {_why(data)}{REPLACE_FILE}")
    return image if is_rgb else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_rgb(path: str | Path, upright: bool = True) -> np.ndarray:
    """Decode an image file as `decode_rgb` does.

    Raises:
        BrokenImage: missing, empty, truncated, not an image or too large; names the file.
    """
    data = read_bytes(path)
    check_header(data, path)
    return decode_rgb(data, path, upright)


def is_damaged(data: np.ndarray) -> bool:
    """Whether the content of a JPEG or PNG file, uint8 [n], lacks a part of what it announces, or a part of a PNG has
    another checksum than it states."""
    if data[:8].tobytes() == PNG_MAGIC:
        return not _has_whole_chunks(data.data)
    # OpenCV fills the missing part of a truncated JPEG with grey and says nothing. Whole files have an end marker;
    # cameras may append a little after it.
    if not is_jpeg(data):
        return False
    half, end = len(data) // 2, b"\xff\xd9"
    # The mark is nearly always in the last bytes, so they are searched first; a whole photo takes a millisecond.
    return end not in data[max(half, len(data) - 4096) :].tobytes() and end not in data[half:].tobytes()


def _has_whole_chunks(data: memoryview) -> bool:
    """Whether a PNG's chunks are all in the file, up to its last, and those that are decoded have their checksums.

    OpenCV takes the memory that a length asks for, and libpng writes a line of its own about a checksum on stderr.
    """
    offset = len(PNG_MAGIC)
    for _ in range(MOST_CHUNKS):
        if offset + 12 > len(data):
            return False
        length, kind = int.from_bytes(data[offset : offset + 4], "big"), bytes(data[offset + 4 : offset + 8])
        checked = data[offset + 4 : offset + 8 + length]
        offset += 12 + length
        # A small letter begins the kinds that a decoder may skip.
        if kind[:1].isupper() and zlib.crc32(checked) != int.from_bytes(data[offset - 4 : offset], "big"):
            return False
        if kind == b"IEND":
            return offset <= len(data)
    return False


def _why(data: np.ndarray) -> str:
    """Why an image cannot be decoded: what Pillow says about it, where it is installed."""
    if data.size == 0:
        return "the file is empty"
    try:
        from PIL import Image, UnidentifiedImageError  # only here: production needs no Pillow
    except ImportError:
        return "cannot be decoded"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data.tobytes()), formats=PILLOW_FORMATS) as image:
                image.load()
    except UnidentifiedImageError:
        return "not an image of a known kind"
    except Exception as error:  # Pillow raises many kinds for damaged files; only the text matters here
        return " ".join(str(error).split()) or type(error).__name__
    return "cannot be decoded"


def check_images(paths: Sequence[str], seconds: float, seed: int) -> int:
    """Check that every file is there, and decode as many as `seconds` allow, in random order.

    Returns:
        how many were decoded (all of them for a small set).
    Raises:
        BrokenImage: the first bad one.
    """
    for path in paths:
        if not Path(path).is_file():
            raise BrokenImage(f"image {path}: no such file; fix the path or remove it from the list")
    deadline = time.monotonic() + seconds
    for done, index in enumerate(np.random.default_rng(seed).permutation(len(paths))):
        if time.monotonic() > deadline:
            return done
        read_rgb(paths[index])
    return len(paths)


def find_images(patterns: Sequence[str]) -> list[str]:
    """Image files that the patterns name: files, folders (searched in depth), or globs. Sorted within each.

    Raises:
        UserError: a pattern that names nothing.
    """
    return [path for path, _ in named_images(patterns)]


def named_images(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each image file of `find_images`, once, with a name that does not depend on where the images are mounted.

    The name is the path below the folder that was given, or from the first wildcard of a glob on; a single file is
    called as it was given.

    Raises:
        UserError: a pattern that names nothing.
    """
    seen: set[str] = set()  # a single pattern names nothing twice: no need to hold all paths
    for pattern in patterns:
        folder = os.path.isdir(pattern)
        empty = True
        for path in _images_of(pattern):
            empty = False
            if len(patterns) > 1:
                if path in seen:
                    continue
                seen.add(path)
            yield path, _name_below(path, pattern, folder)
        if empty:
            if folder:
                raise UserError(f"images {pattern}: no images ({', '.join(ENDINGS)}) in this folder; give another one")
            raise UserError(f"images {pattern}: no such file or folder; fix the path")


def _images_of(pattern: str) -> Iterable[str]:
    if os.path.isdir(pattern):
        return (str(Path(file)) for file in _images_below(str(Path(pattern))))  # without the ./ of the folder .
    if os.path.isfile(pattern):
        return [pattern]
    return sorted({f for f in glob.glob(pattern, recursive=True) if os.path.isfile(f)})


def _name_below(path: str, pattern: str, folder: bool) -> str:
    if folder:
        return os.path.relpath(path, pattern)
    if os.path.isfile(pattern):
        return pattern
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
    return os.path.join(*Path(path).parts[len(list(fixed)) :])


def _images_below(folder: str) -> Iterator[str]:
    """What is named as an image file is, in a folder and in those below it, without following links to folders. In the
    order of names, level by level; a million of them take the memory of their paths alone."""
    begun = [_entries(folder)]  # a folder in each level
    while begun:
        entry = next(begun[-1], None)
        if entry is None:
            begun.pop()
        elif entry.is_dir(follow_symlinks=False):
            begun.append(_entries(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS and not os.path.isdir(entry.path):
            yield entry.path  # a link to nowhere and what is no regular file, too: who reads it says so


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))
