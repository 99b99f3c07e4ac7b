"""Pictures: what their names may end with, and what is said where Pillow is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from det.results import draw_boxes
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pictures import caption, save_image
from seg.colours import png_of_labels

GREY = np.full((20, 30, 3), 128, np.uint8)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG")])
def test_a_picture_is_what_its_name_says(tmp_path: Path, name: str, kind: str) -> None:
    save_image(tmp_path / name, GREY)
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (30, 20))


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.bak"])
def test_another_ending_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"give a name that ends with \.png, \.jpg, \.jpeg"):
        save_image(tmp_path / name, GREY)
    assert list(tmp_path.iterdir()) == []


def test_without_pillow_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "PIL" else sys.modules[name].__spec__)
    for draw in (
        lambda: save_image(tmp_path / "a.png", GREY),
        lambda: caption(GREY, "text"),
        lambda: draw_boxes(GREY, [[1, 2, 3, 4]], [0], ["text"]),
        lambda: png_of_labels(GREY[..., 0], [(0, 0, 0)]),
    ):
        with pytest.raises(UserError, match=r"not installed; python -m pip install 'pplcnet\[draw\]'"):
            draw()


def test_a_picture_that_no_jpeg_holds_is_one_line(tmp_path: Path) -> None:
    long = np.zeros((1, 65501, 3), np.uint8)
    with pytest.raises(UserError, match="a JPEG has at most 65500 pixels a side"):
        save_image(tmp_path / "a.jpg", long)
    save_image(tmp_path / "a.png", long)
