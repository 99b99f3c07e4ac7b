"""What goes around an exported network: from an image to arrays, from arrays to a result."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.core.pictures import save_image


class Inference(abc.ABC):
    """What goes around an exported network: from an image to arrays, from arrays to a result.

    Built from `inference.yml` alone, so it works where neither the config nor the training data are.
    """

    columns: ClassVar[tuple[str, ...]]  # of `rows`
    forms: ClassVar[tuple[str, ...]] = ("table", "json", "csv")  # what `infer --format` may be

    @abc.abstractmethod
    def __init__(self, recipe: Mapping[str, Any]) -> None:
        """Further keyword arguments of a task's own are flags of `infer` (`--topk`, `--threshold`)."""

    @abc.abstractmethod
    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """The network's inputs, without the batch axis, for uint8 RGB [H, W, 3]."""

    def split(self, outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        """The outputs of a batch as one list for each image, without the batch axis."""
        return [[output[k] for output in outputs] for k in range(images)]

    @abc.abstractmethod
    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray) -> dict[str, Any]:
        """The JSON-able result for one image from its outputs, without the batch axis."""

    @abc.abstractmethod
    def rows(self, result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The result as table rows."""

    @abc.abstractmethod
    def draw(self, image: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
        """A picture of the result, uint8 RGB."""

    def write(self, folder: Path, name: str, image: np.ndarray, result: Mapping[str, Any]) -> None:
        """Write the files that `infer --draw` leaves for an image."""
        save_image(folder / f"{name}.png", self.draw(image, result))

    def document(self, form: str, results: Sequence[Mapping[str, Any]]) -> Any:
        """All results as one JSON-able document; each has its file under `image`."""
        return list(results)
