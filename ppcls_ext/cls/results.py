"""The result of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_ext.core.pictures import caption
from ppcls_ext.runtime.results import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassResult(Result):
    """The best classes of an image.

    Attributes:
        labels: names of the classes, the best first.
        scores: of each, in [0, 1].
        classes: number of each.
    """

    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()

    def content(self) -> dict[str, Any]:
        """The classes with their scores; JSON-able."""
        found = zip(self.classes, self.labels, self.scores, strict=True)
        return {"predictions": [{"class": k, "label": label, "score": score} for k, label, score in found]}

    def rows(self) -> list[tuple[Any, ...]]:
        """What was found as rows of a table."""
        found = zip(self.labels, self.classes, self.scores, strict=True)
        return [(rank, *values) for rank, values in enumerate(found, start=1)]

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image, uint8 RGB, with the best class above it."""
        return caption(image, f"{self.labels[0]} {self.scores[0]:.2f}")
