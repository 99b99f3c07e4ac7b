"""The result of a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.pictures import save_image
from ppcls_ext.runtime.results import Result
from seg.colours import overlay, png_of_labels, save_labels


@dataclass(frozen=True, kw_only=True, eq=False)
class SegResult(Result):
    """The class of each pixel of an image.

    Attributes:
        labels: names of all classes, in order of their numbers.
        mask: uint8 [H, W], the number of each pixel's class; H and W are the image's.
        pixels: how many there are of each class.
        palette: RGB colour of each class.
    """

    labels: tuple[str, ...] = ()
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    pixels: tuple[int, ...] = ()
    palette: Sequence[Sequence[int]] = field(default=(), repr=False)

    @property
    def scores(self) -> tuple[float, ...]:
        """The share of each class in the image."""
        return tuple(count / self.mask.size for count in self.pixels)

    def content(self) -> dict[str, Any]:
        """The image's size, and pixels and share of each class; JSON-able."""
        found = enumerate(zip(self.labels, self.pixels, self.scores, strict=True))
        areas = [{"class": k, "label": label, "pixels": n, "share": share} for k, (label, n, share) in found]
        return {"width": self.size[0], "height": self.size[1], "areas": areas}

    def rows(self) -> list[tuple[Any, ...]]:
        """The classes that the image has."""
        found = enumerate(zip(self.labels, self.pixels, self.scores, strict=True))
        return [(k, label, count, share) for k, (label, count, share) in found if count]

    def class_map(self) -> bytes:
        """A palette PNG of the image's size whose values are class numbers. Needs Pillow."""
        return png_of_labels(self.mask, self.palette)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image, uint8 RGB, coloured by class."""
        return overlay(image, self.mask, self.palette)

    def write_pictures(self, folder: Path, name: str) -> None:
        """Write NAME_overlay.png, and NAME_labels.png whose pixels are class numbers."""
        save_image(folder / f"{name}_overlay.png", self.plot())
        save_labels(folder / f"{name}_labels.png", self.mask, self.palette)
