"""The size of an image from its header, before anything is decoded.

Packages for this exist, but do more than production should: imagesize 2 loads an HTTP client to read addresses, and
Pillow is a large dependency for a few bytes.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

import numpy as np

# The next marker of a JPEG. Decoders pass over what stands before it; FF 00, and FF D0 to FF D7, are data of a scan.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
WITHOUT_LENGTH = (0x01, 0xD8)  # markers of a JPEG that begin no segment
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # among the markers C0 to CF of a JPEG, which are of frames
JPEG_END = 0xD9

MOST_MARKERS = 10_000  # a JPEG has fewer before its size; files of cameras have dozens
MOST_STRAY = 2**16  # bytes before a marker of a JPEG
LONGEST_RARE_HEADER = 2**16  # bytes; Pillow takes seconds for hostile headers of many megabytes


def image_size(data: np.ndarray) -> tuple[int, int] | None:
    """Width and height that the header states; None where the header is of no known kind or damaged.

    Args:
        data: the file's content, uint8 [n].
    """
    for magic, read in _READERS:
        if data[: len(magic)].tobytes() == magic:
            try:
                size = read(data.data)
            except (struct.error, IndexError):
                return None
            return size if size is not None and min(size) > 0 else None
    return _by_pillow(data)


def _jpeg(data: memoryview) -> tuple[int, int] | None:
    offset = 2
    for _ in range(MOST_MARKERS):
        found = JPEG_MARKER.search(data, offset, offset + MOST_STRAY)
        if found is None:
            return None
        offset, kind = found.end(), data[found.end() - 1]
        if kind == JPEG_END:
            return None
        if 0xC0 <= kind <= 0xCF and kind not in NO_FRAMES:
            height, width = struct.unpack_from(">HH", data, offset + 3)
            return width, height
        if kind not in WITHOUT_LENGTH:
            offset += struct.unpack_from(">H", data, offset)[0]
    return None


def _png(data: memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: memoryview) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)  # a negative height is stored from the top
    return width, abs(height)


def _webp(data: memoryview) -> tuple[int, int] | None:
    if bytes(data[8:12]) != b"WEBP":
        return None
    kind = bytes(data[12:16])
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        return width, height
    return None


_SHORT, _LONG = 3, 4  # kinds of numbers in a TIFF


def _tiff(data: memoryview) -> tuple[int, int] | None:
    order = "<" if data[0] == ord("I") else ">"
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, first)
    found: dict[int, int] = {}
    for offset in range(first + 2, first + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, offset)
        # Width and height, as 16 or 32 bits; where a tag is there twice, libtiff takes the first. It also reads other
        # kinds of numbers, some of which lie elsewhere in the file: nobody writes a size so.
        if tag in (256, 257) and tag not in found:
            if kind not in (_SHORT, _LONG) or count != 1:
                return None
            found[tag] = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", data, offset + 8)[0]
    return (found[256], found[257]) if len(found) == 2 else None


def _netpbm(data: memoryview) -> tuple[int, int] | None:
    without_comments = re.sub(rb"#[^\r\n]*[\r\n]", b" ", bytes(data[:4096]))
    found = re.match(rb"P[1-6]\s+(\d{1,9})\s+(\d{1,9})\s", without_comments)
    return (int(found[1]), int(found[2])) if found else None


_READERS: tuple[tuple[bytes, Callable[[memoryview], tuple[int, int] | None]], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"GIF8", _gif),
    *((b"P%d" % kind, _netpbm) for kind in range(1, 7)),
)


def _by_pillow(data: np.ndarray) -> tuple[int, int] | None:
    """Rarer kinds, which OpenCV may decode too, where Pillow is installed."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        # Pillow reads AVIF as a whole only, and by a library that is quick about it.
        avif = data[4:8].tobytes() == b"ftyp"
        part = data if avif else data[:LONGEST_RARE_HEADER]
        with Image.open(io.BytesIO(part.tobytes()), formats=["AVIF"] if avif else None) as image:
            return image.size
    except Exception:  # Pillow raises many kinds; each means that it does not know the size
        return None
