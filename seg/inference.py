"""Segmentation outside training: the exported graph, and from an image to its class map, areas and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn

from ppcls_ext.core.pictures import save_image
from ppcls_ext.core.pixels import normalize
from ppcls_ext.runtime.inference import Inference
from seg.colours import overlay, save_labels
from seg.sections import EvalSection, NormalizeSection
from seg.views import class_map

Size = tuple[int, int]  # height, width

# Sizes that the check of an export runs where the size is free, by batch: two, so that free sizes are proven.
TRIED_SIZES = {1: (256, 320)}
OTHER_SIZE = (192, 256)


class ExportedNetwork(nn.Layer):
    """float32 [N, 3, H, W] to the class map int32 [N, H, W], or to logits float32 [N, classes, H, W]."""

    def __init__(self, network: nn.Layer, argmax: bool) -> None:
        super().__init__()
        self.network, self.argmax = network, argmax

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        logits = self.network(x)[0]
        return paddle.argmax(logits, 1, dtype="int32") if self.argmax else logits


class EvaluatedNetwork(nn.Layer):
    """float32 [N, 3, H, W] of any size to the class map int32 [N, H, W], in the way of an `Eval` section.

    Args:
        window: height and width, where the section names none.
    """

    def __init__(self, network: nn.Layer, settings: EvalSection, window: Size) -> None:
        super().__init__()
        self.network, self.settings, self.window = network, settings, window

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return class_map(lambda part: self.network(part)[0], x, self.settings, self.window)


def sample_inputs(count: int, size: Size | None) -> np.ndarray:
    """Normalised pictures of smooth blobs with some noise, float32 [count, 3, H, W]: most pixels are not borderline."""
    height, width = size or TRIED_SIZES.get(count, OTHER_SIZE)
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, 3, 6, 6)).astype(np.float32)
    blobs = [[cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in image] for image in coarse]
    return np.array(blobs, np.float32) * 1.5 + rng.standard_normal((count, 3, height, width)).astype(np.float32) * 0.1


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """How far outputs are apart: class maps by the share of pixels that differ, logits relative to the largest one."""
    (a,), (b,) = ours, theirs
    if a.shape != b.shape:
        return 1.0
    if a.dtype.kind in "iu":
        return float((a != b).mean())
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-6))


class ClassMap(dict[str, Any]):
    """The JSON-able result of an image, which carries the class map (uint8 [H, W]) for pictures along."""

    classes: np.ndarray


class SegmentationInference(Inference):
    """Image to the class of each pixel."""

    columns = ("class", "label", "pixels", "share")

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.labels: list[str] = recipe["labels"]
        self.palette: list[list[int]] = recipe["postprocess"]["palette"]
        preprocess = recipe["preprocess"]
        self.normalization = NormalizeSection(mean=preprocess["mean"], std=preprocess["std"])
        self.size: Sequence[int] | None = preprocess["size"]
        self.max_side: int | None = preprocess["max_side"]
        self.multiple: int = preprocess["multiple"]  # images of free size are padded to it

    def _network_size(self, image: np.ndarray) -> Size:
        """Height and width that an image has for the network, before padding."""
        height, width = image.shape[:2]
        if self.size is not None:
            return self.size[0], self.size[1]
        scale = min(1.0, (self.max_side or max(height, width)) / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        height, width = self._network_size(image)
        if (height, width) != image.shape[:2]:
            shrinks = height * width < image.shape[0] * image.shape[1]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=method)
        array = normalize(image, self.normalization.mean, self.normalization.std)
        if self.size is None:  # as in evaluation
            array = np.pad(array, ((0, 0), (0, -height % self.multiple), (0, -width % self.multiple)))
        return [array]

    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray) -> ClassMap:
        (output,) = outputs
        classes = (output if output.ndim == 2 else output.argmax(0)).astype(np.uint8)
        height, width = self._network_size(image)
        classes = classes[:height, :width]
        if classes.shape != image.shape[:2]:
            classes = cv2.resize(classes, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        counts = np.bincount(classes.reshape(-1), minlength=len(self.labels))
        found = [
            {"class": k, "label": label, "pixels": int(counts[k]), "share": float(counts[k] / classes.size)}
            for k, label in enumerate(self.labels)
        ]
        result = ClassMap(width=image.shape[1], height=image.shape[0], areas=found)
        result.classes = classes
        return result

    def rows(self, result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The classes that the image has."""
        return [(a["class"], a["label"], a["pixels"], a["share"]) for a in result["areas"] if a["pixels"]]

    def draw(self, image: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
        assert isinstance(result, ClassMap)
        return overlay(image, result.classes, self.palette)

    def write(self, folder: Path, name: str, image: np.ndarray, result: Mapping[str, Any]) -> None:
        """Write NAME_overlay.png, and NAME_labels.png whose pixels are class numbers."""
        assert isinstance(result, ClassMap)
        save_image(folder / f"{name}_overlay.png", self.draw(image, result))
        save_labels(folder / f"{name}_labels.png", result.classes, self.palette)
