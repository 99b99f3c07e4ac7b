"""Decoding at reduced scale shows the same crop as decoding in full, at least at twice the size that is needed."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.core.images import BrokenImage, read_rgb
from ppcls_ext.data.transforms import build_transforms
from ppcls_ext.data.undecoded import Undecoded, needed_pixels, read_undecoded
from ppcls_ext.upstream.paddleclas import resize_crops_with

CROP = {"RandCropImage": {"size": 32, "scale": [0.2, 1.0]}}


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A smooth picture of 400 x 300, so that the scale it is decoded at shows little in a crop of 32."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)).save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


def cut(photo: str, rows: slice, columns: slice, size: tuple[int, int]) -> np.ndarray:
    image = read_undecoded(photo)
    assert isinstance(image, Undecoded)
    return image[rows, columns, :].pixels(size)


def test_it_has_the_shape_of_the_image(photo: str) -> None:
    assert read_undecoded(photo).shape == read_rgb(photo).shape == (300, 400, 3)


def test_what_leaves_no_room_is_decoded_in_full(photo: str) -> None:
    part = cut(photo, slice(10, 110), slice(20, 140), (32, 32))  # 100 x 120 pixels are less than 4 x 32
    np.testing.assert_array_equal(part, read_rgb(photo)[10:110, 20:140])


@pytest.mark.parametrize(("side", "factor"), [(128, 2), (256, 4), (255, 2), (127, 1)])
def test_twice_the_size_is_left(photo: str, side: int, factor: int) -> None:
    part = cut(photo, slice(20, 20 + side), slice(40, 40 + side), (32, 32))
    assert part.shape[0] == pytest.approx(side / factor, abs=1)
    assert min(part.shape[:2]) >= 64 or factor == 1


def test_crops_are_those_of_exact_decoding(photo: str) -> None:
    (exact,), (scaled,) = build_transforms([CROP], "ops"), build_transforms([CROP], "ops")
    resize_crops_with(scaled, needed_pixels)
    for seed in range(20):
        random.seed(seed)
        expected = exact(read_rgb(photo))
        random.seed(seed)
        found = scaled(read_undecoded(photo))
        assert np.abs(found.astype(int) - expected.astype(int)).mean() < 8  # of another crop it is 60


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photo_is_turned_upright(photo: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(photo).save(photo, exif=exif, quality=95)
    whole = read_rgb(photo)
    assert read_undecoded(photo).shape == whole.shape
    part = cut(photo, slice(30, 290), slice(10, 270), (32, 32))
    expected = whole[30:290, 10:270]
    small = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(int) for image in (part, expected)]
    assert np.abs(small[0] - small[1]).mean() < 4


def test_other_files_are_decoded_at_once(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(needed_pixels(read_undecoded(str(tmp_path / "photo.png")), (8, 8)), pixels)


def test_a_damaged_file_is_one_line(photo: str) -> None:
    Path(photo).write_bytes(Path(photo).read_bytes()[:2000])
    with pytest.raises(BrokenImage, match=r"photo\.jpg"):
        cut(photo, slice(0, 300), slice(0, 300), (32, 32))
