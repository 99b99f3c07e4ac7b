"""Files that state few pixels and yet take a decoder minutes: found before it has them."""

from __future__ import annotations

import numpy as np

from ppcls_ext.core.headers import JPEG_END, JPEG_MARKER, NO_FRAMES, WITHOUT_LENGTH

# Of a JPEG whose decoder reads all of them: each takes as long as the image is large, however short it is. Encoders
# write about 10.
MOST_SCANS = 100
MOST_SEGMENTS = 10_000  # a JPEG may have so many up to its last scan
MOST_CHUNKS = 200_000  # a PNG may have so many; writers cut what is compressed into pieces of 8 KB and more
# Of a PNG: libpng inflates up to 8 MB of each, in 40 ms, and OpenCV has no use for them.
MOST_COMPRESSED_TEXTS = 50

_START_OF_SCAN = 0xDA
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # frames whose decoder stops after the first scan, if that has all components


def why_endless(data: np.ndarray) -> str | None:
    """Why a JPEG or PNG would take minutes to decode although it is small; None where nothing speaks for that.

    Args:
        data: the file's content, uint8 [n].
    """
    if data[:2].tobytes() == b"\xff\xd8" and _has_many_scans(data.data):
        return f"a JPEG of more than {MOST_SCANS} scans, or {MOST_SEGMENTS} segments"
    if data[:4].tobytes() == b"\x89PNG" and _has_many_texts(data.data):
        return f"a PNG of more than {MOST_COMPRESSED_TEXTS} compressed texts"
    return None


def _has_many_scans(data: memoryview) -> bool:
    offset, scans, components, sequential = 2, 0, 0, False
    for _ in range(MOST_SEGMENTS):
        found = JPEG_MARKER.search(data, offset)
        if found is None or found.end() + 8 > len(data):  # cut short
            return False
        offset, kind = found.end(), data[found.end() - 1]
        if kind == JPEG_END:
            return False
        if kind in WITHOUT_LENGTH:
            continue
        if 0xC0 <= kind <= 0xCF and kind not in NO_FRAMES:
            sequential, components = kind in _SEQUENTIAL, data[offset + 7]
        elif kind == _START_OF_SCAN:
            if scans == 0 and sequential and data[offset + 2] >= components:
                return False
            scans += 1
            if scans > MOST_SCANS:
                return True
        offset += int.from_bytes(data[offset : offset + 2], "big")
    return True


def _has_many_texts(data: memoryview) -> bool:
    offset, texts = 8, 0
    for _ in range(MOST_CHUNKS):
        if offset + 12 > len(data):
            return False
        texts += bytes(data[offset + 4 : offset + 8]) in (b"zTXt", b"iTXt")
        if texts > MOST_COMPRESSED_TEXTS:
            return True
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    return False
