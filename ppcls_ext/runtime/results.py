"""What a prediction gives: one frozen dataclass for each task, all on this base."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pictures import picture_format, save_image
from ppcls_ext.runtime.sources import Channels, read_image

LONGEST_STEM = 200  # bytes of an image's name in those of its pictures; a file's name has at most 255
STAGES = ("decode", "prepare", "network", "postprocess")


def picture_name(number: int, source: str) -> str:
    """What an image's pictures are called, without their ending: its number in the list, and its own name."""
    stem = Path(source).stem
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return f"{number:04d}_{stem}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(abc.ABC):
    """The result for one image.

    Attributes:
        source: the image's path, or what kind of thing it was (`<bytes>`, `<array>`).
        size: width and height of the image in pixels; (0, 0) where it could not be read.
        engine: what has run the network.
        ms: milliseconds of each stage: decode, prepare, network (of the whole batch that it was in), postprocess.
        error: why there is no result, in one line; None where there is one.
    """

    source: str = ""
    size: tuple[int, int] = (0, 0)
    engine: str = ""
    ms: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    # What the caller handed in, for `plot`: a reference, so that a list of results holds no decoded images of its own.
    _item: Any = field(default=None, repr=False)
    _channels: Channels | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None

    @abc.abstractmethod
    def content(self) -> dict[str, Any]:
        """What was found, JSON-able."""

    @abc.abstractmethod
    def rows(self) -> list[tuple[Any, ...]]:
        """What was found as rows of a table, whose columns are the `columns` of the task's `Inference`."""

    @abc.abstractmethod
    def draw(self, image: np.ndarray) -> np.ndarray:
        """A picture of the result, uint8 RGB.

        Args:
            image: the image that it is of, uint8 RGB [H, W, 3].
        """

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "source": self.source,
            "width": self.size[0],
            "height": self.size[1],
            "engine": self.engine,
            "ms": {stage: round(value, 3) for stage, value in self.ms.items()},
            "error": self.error,
            **(self.content() if self.ok else {}),
        }

    def class_map(self) -> bytes | None:
        """A palette PNG of the image's size, its values class numbers; None where a task has none. Needs Pillow."""
        return None

    def image(self) -> np.ndarray:
        """The image that it is of, uint8 RGB [H, W, 3], read again from its source.

        Raises:
            UserError: it cannot be read, or could not be the first time.
        """
        if self.error is not None:
            raise UserError(self.error)
        return read_image(self._item, self._channels, max_pixels=None)

    def plot(self) -> np.ndarray:
        """The image with what was found drawn into it, uint8 RGB [H, W, 3]. Needs Pillow.

        Raises:
            UserError: the image cannot be read again; Pillow is not installed.
        """
        return self.draw(self.image())

    def save(self, path: str | Path) -> None:
        """Write `plot()` as PNG or JPEG, as the path ends.

        Raises:
            UserError: another ending; Pillow is not installed; the image cannot be read again.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise UserError(f"picture {path!r}: give a path")
        picture_format(Path(path))  # before the image is read again
        save_image(Path(path), self.plot())

    def write_pictures(self, folder: Path, name: str) -> None:
        """Write the files that `infer --draw` leaves for an image."""
        save_image(folder / f"{name}.png", self.plot())
