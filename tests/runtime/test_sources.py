"""An image's size is known from its header, and every kind of source gives the same pixels."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.headers import image_size
from ppcls_ext.core.images import BrokenImage, read_rgb
from ppcls_ext.runtime.sources import read_image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 61, height: int = 37) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"comment": b"x" * 60000}),
    ("PNG", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0" + b"x" * 20}),  # an extended header
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("PPM", {}),
    ("GIF", {}),
    ("JPEG2000", {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_the_size_is_read_from_the_header(kind: str, options: dict[str, Any]) -> None:
    data = encoded(photo(), kind, **options)
    assert image_size(np.frombuffer(data, np.uint8)) == (61, 37)


@pytest.mark.parametrize(("kind", "options"), KINDS[:-1], ids=str)
def test_no_cut_header_is_more_than_unknown(kind: str, options: dict[str, Any]) -> None:
    data = encoded(photo(), kind, **options)
    for length in range(0, min(len(data), 200)):
        assert image_size(np.frombuffer(data[:length], np.uint8)) in (None, (61, 37))


@pytest.mark.parametrize(
    "start",
    [b"\xff\xd8" + b"\xff\xe0\0\2" * 2**20, b"\xff\xd8" + b"\xff" * 2**22],
    ids=["a JPEG of empty segments", "a JPEG of fill bytes"],
)
def test_a_header_without_end_is_not_searched_to_its_end(start: bytes) -> None:
    """The size comes after what no camera writes, and is not looked for there."""
    whole = start + b"\xff\xc0\0\x11\x08\0\x25\0\x3d\3" + bytes(20)
    assert image_size(np.frombuffer(whole, np.uint8)) is None


def test_noise_behind_any_magic_number_is_no_crash() -> None:
    rng = np.random.default_rng(0)
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"P6"):
        for _ in range(200):
            noise = rng.integers(0, 256, rng.integers(0, 300)).astype(np.uint8)
            size = image_size(np.concatenate([np.frombuffer(magic, np.uint8), noise]))
            assert size is None or min(size) > 0


def test_a_header_of_60000_pixels_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(huge_png(60000, 60000))
    tracemalloc.start()
    for item in (tmp_path / "bomb.png", huge_png(60000, 60000)):
        with pytest.raises(BrokenImage, match=r"60000 x 60000 are more pixels than max_pixels=134217728"):
            read_image(item)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_max_pixels_is_the_callers(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    for item in (tmp_path / "a.png", photo(), np.asarray(photo())):
        assert read_image(item, "rgb", 61 * 37).shape == (37, 61, 3)
        assert read_image(item, "rgb", None).shape == (37, 61, 3)
        with pytest.raises(BrokenImage, match="max_pixels"):
            read_image(item, "rgb", 61 * 37 - 1)


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    photo().save(file)
    expected = read_rgb(file)
    for item in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), Image.open(file), photo()):
        np.testing.assert_array_equal(read_image(item), expected)
    np.testing.assert_array_equal(read_image(expected, "rgb"), expected)
    np.testing.assert_array_equal(read_image(expected[..., ::-1], "bgr"), expected)


def test_pil_images_are_upright_and_without_alpha(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(Image.open(tmp_path / "turned.png")), read_rgb(tmp_path / "turned.png"))
    alpha = photo().convert("RGBA")
    np.testing.assert_array_equal(read_image(alpha), np.asarray(photo()))


@pytest.mark.parametrize(
    ("item", "channels", "says"),
    [
        (np.zeros((4, 4, 3), np.uint8), None, 'say channels="rgb"'),
        (np.zeros((4, 4, 3), np.uint8), "RGB", "got 'RGB'"),
        (np.zeros((4, 4, 3), np.float32), "rgb", "expected uint8 [H, W, 3], got float32 [4, 4, 3]"),
        (np.zeros((4, 4), np.uint8), "rgb", "got uint8 [4, 4]"),
        (np.zeros((0, 4, 3), np.uint8), "rgb", "got uint8 [0, 4, 3]"),
        (7, None, "image of type int"),
        (b"", None, "the file is empty"),
        (b"not an image at all", None, "not an image of a known kind"),
        ("nowhere.jpg", None, "image nowhere.jpg: No such file"),
    ],
)
def test_a_wrong_source_is_one_line(item: Any, channels: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_image(item, channels)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
