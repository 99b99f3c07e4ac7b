"""JPEGs may be decoded at reduced scale; what is decoded in full equals evaluation to the last bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import decode_rgb
from ppcls_ext.runtime import sources
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.sources import Size, read_picture, reduction


def jpeg(width: int, height: int, orientation: int = 1, mode: str = "RGB") -> bytes:
    """Smooth blobs: at another scale they look the same."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    buffer = io.BytesIO()
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smooth).convert(mode).save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def short_edge(side: int) -> Any:
    def resized(size: Size) -> Size:
        return round(size[0] * side / min(size)), round(size[1] * side / min(size))

    return resized


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((4000, 3000), 256, 4),
        ((4000, 3000), 180, 8),
        ((500, 375), 256, 1),
        ((1100, 1024), 256, 2),
        ((1100, 1023), 256, 1),
    ],
)
def test_at_least_twice_the_needed_sides_are_left(size: Size, side: int, expected: int) -> None:
    assert reduction(size, short_edge(side)) == expected
    assert reduction(size[::-1], short_edge(side)) == expected


def test_a_size_that_is_not_square_must_fit_both_ways_that_exif_may_turn_the_image() -> None:
    assert reduction((4000, 1000), lambda size: (800, 100)) == 1
    assert reduction((4000, 1000), lambda size: (100, 100)) == 4


def test_what_does_not_begin_with_a_resize_is_decoded_in_full() -> None:
    picture = read_picture(jpeg(800, 600), resized=lambda size: None)
    assert picture.pixels.shape == (600, 800, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_is_upright_and_states_the_size_of_the_whole(orientation: int) -> None:
    data = jpeg(803, 601, orientation)
    whole = read_picture(data)
    picture = read_picture(data, resized=short_edge(70))
    turned = orientation > 4
    assert whole.size == picture.size == ((601, 803) if turned else (803, 601))
    assert picture.pixels.shape == ((201, 151, 3) if turned else (151, 201, 3))
    alike = cv2.resize(whole.pixels, picture.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(alike.astype(int) - picture.pixels).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_colours_are_those_of_plain_opencv(mode: str, scale: int) -> None:
    data = np.frombuffer(jpeg(203, 101, mode=mode), np.uint8)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    plain = cv2.imdecode(data, flags.get(scale, cv2.IMREAD_REDUCED_COLOR_8))
    np.testing.assert_array_equal(decode_rgb(data, "x", reduction=scale), plain[:, :, ::-1])


def test_a_decoder_that_ignores_the_scale_gives_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(800, 600)
    monkeypatch.setattr(sources, "decode_rgb", lambda data, name, reduction=1: decode_rgb(data, name))
    picture = read_picture(data, resized=short_edge(70))
    assert picture.size == (800, 600)
    np.testing.assert_array_equal(picture.pixels, read_picture(data).pixels)


def test_only_jpegs_are_reduced() -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(800, 600))).save(buffer, "PNG")
    assert read_picture(buffer.getvalue(), resized=short_edge(70)).pixels.shape == (600, 800, 3)


@pytest.mark.slow
def test_a_predictor_takes_either_way_and_gives_the_size_of_the_image(exported: Path) -> None:
    data = jpeg(800, 600, orientation=6)
    found = {}
    for decode in ("exact", "scaled"):
        options: dict[str, Any] = {"decode": decode, "engine": "native", "threads": 1}
        with Predictor(exported, **options) as predict:
            found[decode] = predict(data)
    assert found["exact"].size == found["scaled"].size == (600, 800)
    np.testing.assert_allclose(found["exact"].scores, found["scaled"].scores, atol=0.15)


@pytest.mark.slow
def test_another_way_to_decode_is_one_line(exported: Path) -> None:
    options: dict[str, Any] = {"decode": "fast"}
    with pytest.raises(UserError, match='decode must be "exact" or "scaled"'):
        Predictor(exported, **options)
