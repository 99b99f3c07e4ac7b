"""Small files that would take a decoder minutes, or more memory than they state, are refused before it has them."""

from __future__ import annotations

import re
import struct
import zlib

import cv2
import numpy as np
import pytest

from ppcls_ext.core.bombs import MOST_COMPRESSED_TEXTS, MOST_SCANS, why_endless
from ppcls_ext.core.headers import MOST_STRAY, image_size
from ppcls_ext.core.images import BrokenImage, decode_rgb


def jpeg(progressive: bool, side: int = 32) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    _, data = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])
    return data.tobytes()


def with_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    data = jpeg(progressive=True)
    begin, end = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")), data.rindex(b"\xff\xd9")
    return data[:end] + data[begin:end] * more + data[end:]


def png_with(kind: bytes, count: int) -> bytes:
    """A PNG with so many chunks of a kind of text before its pixels."""
    _, data = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))
    content = b"k\0" + (b"" if kind == b"tEXt" else b"\0") + zlib.compress(bytes(100))
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data.tobytes()[:33] + chunk * count + data.tobytes()[33:]


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=False),
        jpeg(progressive=True),
        with_scans(MOST_SCANS - 20),
        jpeg(progressive=True) + b"\xff\xda" * 500,  # phones append a film
        b"\xff\xd8\xff\xe1\xff\xff" + b"\xff\xda" * 40000,
        png_with(b"tEXt", 200),
        png_with(b"zTXt", MOST_COMPRESSED_TEXTS),
        b"",
        b"\xff\xd8",
        b"\x89PNG",
    ],
    ids=[
        "sequential",
        "progressive",
        "more",
        "appended",
        "a segment",
        "plain texts",
        "texts",
        "empty",
        "begun",
        "begun 2",
    ],
)
def test_what_is_quick_is_let_through(data: bytes) -> None:
    assert why_endless(array(data)) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (with_scans(MOST_SCANS + 1), "scans"),
        (jpeg(progressive=True)[:-2] + b"\xff\xfe\0\2" * 20_000 + b"\xff\xd9", "scans"),
        (png_with(b"zTXt", MOST_COMPRESSED_TEXTS + 1), "texts"),
        (png_with(b"iTXt", MOST_COMPRESSED_TEXTS + 1), "texts"),
    ],
    ids=["scans", "comments", "zTXt", "iTXt"],
)
def test_what_would_take_minutes_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BrokenImage, match=f"image x: .*{why}.*; save it again"):
        decode_rgb(array(data), "x")


def test_each_scan_is_counted() -> None:
    scans = len(re.findall(b"\xff\xda", jpeg(progressive=True)))
    assert why_endless(array(with_scans(MOST_SCANS - scans))) is None
    assert why_endless(array(with_scans(MOST_SCANS - scans + 1))) is not None


def test_scans_of_single_components_count_in_a_sequential_jpeg_too() -> None:
    """Its decoder stops after the first scan only if that has all components."""
    data = jpeg(progressive=False)
    start = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + b"\x12\xff\0\x34"
    assert why_endless(array(data[:start] + scan * (MOST_SCANS + 1) + b"\xff\xd9" + bytes(8))) is not None
    assert why_endless(array(data[:start] + scan * MOST_SCANS + b"\xff\xd9" + bytes(8))) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_of_a_tag_that_is_there_twice_the_first_counts_as_in_the_decoder(order: str) -> None:
    """Else a TIFF could state ten pixels and have a hundred million."""
    tags = [(256, 60000), (256, 10), (257, 50000), (257, 10)]
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    data += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    assert image_size(array(data)) == (60000, 50000)


@pytest.mark.parametrize("kind", [1, 5, 16])
def test_a_size_in_a_tiff_that_lies_elsewhere_in_the_file_is_no_size(kind: int) -> None:
    """libtiff follows an entry of 64 bits to where it says the number is; read in place it would be a small one."""
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, 38) for tag in (256, 257))
    data = b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<Q", 60000)
    assert image_size(array(data)) is None


def test_several_sizes_in_a_tiff_are_no_size() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 4, 2, 38) for tag in (256, 257))
    assert image_size(array(b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(16))) is None


def test_a_jpeg_ends_where_it_says_so_and_is_not_searched_for_ever() -> None:
    whole = jpeg(progressive=False)
    assert image_size(array(whole[:2] + b"\xff\xd9" + whole[2:])) is None
    second = 4 + int.from_bytes(whole[4:6], "big")
    assert image_size(array(whole[:second] + bytes(MOST_STRAY) + whole[second:])) is None


@pytest.mark.parametrize("between", [b"\xff\x00", b"stray", b"\xff\x00" * 20 + b"\0" * 1000, b"\xff\xff"])
def test_what_decoders_pass_over_in_a_jpeg_hides_no_size(between: bytes) -> None:
    whole = jpeg(progressive=False)
    second = 4 + int.from_bytes(whole[4:6], "big")  # where the first segment ends
    data = array(whole[:second] + between + whole[second:])
    assert image_size(data) == (32, 32)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (32, 32, 3)


def test_the_size_of_a_jpeg_is_that_of_the_frame_that_is_decoded() -> None:
    """Who takes `FF 00` for a segment with a length jumps over the frame, to the small one behind it."""
    frame = jpeg(progressive=False)[2:-2]
    small = b"\xff\xc0\0\x11\x08\0\x0a\0\x0a\3" + bytes(9)
    data = array(b"\xff\xd8\xff\x00" + struct.pack(">H", len(frame) + 2) + frame + small + b"\xff\xd9")
    assert image_size(data) == (32, 32)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (32, 32, 3)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_comment_in_a_ppm_ends_as_the_decoder_says(end: bytes) -> None:
    assert image_size(array(b"P6 # 1 1" + end + b"60000 50000\n255\n# 8 8\n")) == (60000, 50000)
