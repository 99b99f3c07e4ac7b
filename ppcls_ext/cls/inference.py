"""What goes around an exported classifier: from an image to its input, from scores to the best classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from ppcls_ext.cls.results import ClassResult
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import Operation, read_operations
from ppcls_ext.data.transforms import apply, build_transforms
from ppcls_ext.runtime.inference import Inference, labels_do_not_fit, takes_pixels
from ppcls_ext.runtime.sources import Size
from ppcls_ext.runtime.transforms import OPERATIONS, CropImage, NormalizeImage, PixelTables, ResizeImage, ToCHWImage

MOST_OPERATIONS = 50


class ClassificationInference(Inference):
    """Image to the best classes."""

    columns = ("rank", "label", "class", "score")
    column_types = (int, str, int, float)
    result_type = ClassResult

    def __init__(self, recipe: Mapping[str, Any], topk: int | None = None) -> None:
        """
        Args:
            topk: classes in a result; default: the recipe's.
        """
        self.labels: list[str] = recipe["labels"]
        given = recipe["postprocess"].get("topk")
        if type(given) is not int or given < 1:
            raise UserError(f"postprocess.topk: expected a number of classes, got {given!r}")
        if topk is not None and (not isinstance(topk, Integral) or isinstance(topk, bool) or topk < 1):
            raise UserError(f"topk: expected a number of classes, got {topk!r}")
        self.topk = min(int(topk or given), len(self.labels))
        preprocess = recipe["preprocess"]
        self._pixels = takes_pixels(preprocess)
        transforms = build_preprocessing(preprocess.get("transforms"), "preprocess.transforms")
        # The first resizing knows the size of the whole image, of which it may be given a smaller copy.
        first = transforms[0] if transforms else None
        self._resize = first if isinstance(first, ResizeImage) else None
        if self._resize is not None:
            del transforms[0]
        normalization = _pop_normalization(transforms)
        self._tables = None if normalization is None else PixelTables(normalization)
        self._transforms = transforms

    def resized(self, size: Size) -> Size | None:
        """The size after the first resizing, where that comes first."""
        return None if self._resize is None else self._resize.resized(size)

    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        """The network's input, float32 [3, H, W] or uint8 [H, W, 3], for uint8 RGB [H, W, 3]."""
        if self._resize is not None:
            image = self._resize(image, size)
        if not self._pixels and self._tables is None:
            return [apply(image, self._transforms)]
        for transform in self._transforms:
            image = transform(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"preprocess.transforms: give {image.dtype} {list(image.shape)} where uint8 [H, W, 3] is needed"
            )
        return [np.ascontiguousarray(image) if self._tables is None else self._tables(image)]

    def check_outputs(self, outputs: Sequence[np.ndarray]) -> None:
        """Raise UserError if there are other outputs, or other classes, than the recipe has."""
        if len(outputs) != 1 or outputs[0].ndim != 2:
            raise UserError(f"outputs: a classifier gives scores [N, classes], this network {_shapes(outputs)}")
        if outputs[0].shape[1] != len(self.labels):
            raise labels_do_not_fit(self.labels, outputs[0].shape[1])

    def difference(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
        """Largest difference of the logarithm of a score."""
        return score_difference(found, expected)

    def result(self, outputs: Sequence[np.ndarray], **about: Any) -> ClassResult:
        """The best classes of an image."""
        (scores,) = outputs
        best = best_first(scores, self.topk)
        return ClassResult(
            labels=tuple(self.labels[k] for k in best),
            scores=tuple(float(scores[k]) for k in best),
            classes=tuple(int(k) for k in best),
            **about,
        )


def score_difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Largest difference of the logarithm of a score: near a score of 1 / classes, as of a network not trained yet,
    plain differences hide all.
    """
    (a,), (b,) = found, expected
    return float(np.abs(np.log(a + 1e-8) - np.log(b + 1e-8)).max())


def best_first(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest scores, largest first, of equal ones the first; without sorting all of them."""
    least = np.partition(scores, -count)[-count]
    unordered = bool(np.isnan(scores.max()))  # NaN counts as the largest score, and no comparison with it holds
    indices = np.arange(len(scores)) if unordered else np.flatnonzero(scores >= least)
    return indices[np.argsort(-scores[indices], kind="stable")[:count]]


def _shapes(outputs: Sequence[np.ndarray]) -> str:
    return " and ".join(str(list(output.shape)) for output in outputs) or "nothing"


def build_preprocessing(ops: Any, where: str) -> list[Callable[[Any], Any]]:
    """The operations of a recipe in NumPy and OpenCV; those that only PaddleClas has need PaddleClas.

    Raises:
        UserError: an operation or argument that is unknown, or PaddleClas is needed and not installed.
    """
    operations = read_operations(ops, where)
    if len(operations) > MOST_OPERATIONS:
        raise UserError(f"{where}: {len(operations)} operations, expected at most {MOST_OPERATIONS}")
    built: list[Callable[[Any], Any]] = []
    for operation in operations:
        if operation.name in OPERATIONS:
            built.append(operation.build(OPERATIONS))
        elif operation.name != "DecodeImage":  # images are decoded before
            built += _of_paddleclas(operation)
    return built


def _pop_normalization(transforms: list[Callable[[Any], Any]]) -> NormalizeImage | None:
    """Take a normalisation of whole pixels off the end of a list.

    None where the list ends otherwise, or holds what may give anything but uint8 pixels.
    """
    before = transforms[:-1] if transforms and isinstance(transforms[-1], ToCHWImage) else transforms[:]
    last = before.pop() if before else None
    if not isinstance(last, NormalizeImage) or not last.channels_last:
        return None
    if not all(isinstance(transform, (ResizeImage, CropImage)) for transform in before):
        return None
    transforms[:] = before
    return last


def normalization_apart(ops: Any, where: str) -> tuple[list[Any], list[float], list[float]]:
    """A list of operations without the normalisation at its end, for a network that does it; and its mean and std.

    Returns:
        the operations before it, mean and standard deviation of pixels in 0..1, three each.
    Raises:
        UserError: the list does not end with the normalisation of uint8 pixels.
    """
    operations = read_operations(ops, where)
    transforms = build_preprocessing(ops, where)
    normalization = _pop_normalization(transforms)
    if normalization is None:
        raise UserError(
            f"{where}: Export.input: uint8 needs a list of ResizeImage and CropImage that ends with NormalizeImage "
            "(order '') and ToCHWImage"
        )
    last = max(index for index, operation in enumerate(operations) if operation.name == "NormalizeImage")
    unit = float(normalization.scale) * 255
    mean, std = ([float(v) / unit for v in values.reshape(-1)] for values in (normalization.mean, normalization.std))
    return [{operation.name: operation.arguments} for operation in operations[:last]], mean, std


def needs_paddleclas(ops: Any, where: str) -> list[str]:
    """Names of the operations of a recipe that only PaddleClas has."""
    names = [operation.name for operation in read_operations(ops, where)]
    return [name for name in names if name not in OPERATIONS and name != "DecodeImage"]


def _of_paddleclas(operation: Operation) -> list[Callable[[Any], Any]]:
    try:
        return build_transforms([{operation.name: operation.arguments}], operation.where)
    except ImportError as error:
        raise UserError(
            f"{operation.where}: only PaddleClas has this operation; install paddleclas, or export with "
            f"{', '.join(sorted(OPERATIONS))} alone"
        ) from error
