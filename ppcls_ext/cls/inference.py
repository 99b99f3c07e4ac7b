"""What goes around an exported classifier: from an image to its input, from scores to the best classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppcls_ext.core.pictures import caption
from ppcls_ext.data.transforms import apply, build_transforms
from ppcls_ext.runtime.inference import Inference


class ClassificationInference(Inference):
    """Image to the best classes."""

    columns = ("rank", "label", "class", "score")

    def __init__(self, recipe: Mapping[str, Any], topk: int | None = None) -> None:
        self.labels: list[str] = recipe["labels"]
        self.topk = min(topk or recipe["postprocess"]["topk"], len(self.labels))
        self.transforms = build_transforms(recipe["preprocess"]["transforms"], "preprocess.transforms")

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        return [apply(image, self.transforms)]

    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray) -> dict[str, Any]:
        (scores,) = outputs
        best = np.argsort(-scores, kind="stable")[: self.topk]
        return {"predictions": [{"class": int(k), "label": self.labels[k], "score": float(scores[k])} for k in best]}

    def rows(self, result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        found = result["predictions"]
        return [(rank, p["label"], p["class"], p["score"]) for rank, p in enumerate(found, start=1)]

    def draw(self, image: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
        best = result["predictions"][0]
        return caption(image, f"{best['label']} {best['score']:.2f}")
